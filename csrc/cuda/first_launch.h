// The first launch of a chain, which has the chain's Io as a parameter.
#pragma once

#include <functional>

#include "cuda/io.h"
#include "cuda/launch.h"

namespace fcntag {
namespace cuda {

// Gives a graph that begins with a certain launch another Io, for its launches from now on. Replays that are on a
// stream already keep theirs.
using Repoint = std::function<void(Graph& graph, const Io& io)>;

// As launch(), for a kernel whose parameters have an IoSource `io`. The result is good for graphs that begin with this
// launch.
template <typename Params>
Repoint launch_first(void (*kernel)(Params), const LaunchShape& shape, Stream stream, const Params& params) {
  launch(kernel, shape, stream, params);
  return [kernel, shape, params](Graph& graph, const Io& io) {
    Params changed = params;
    changed.io.value = io;
    set_first_launch(graph, kernel, shape, changed);
  };
}

}  // namespace cuda
}  // namespace fcntag
