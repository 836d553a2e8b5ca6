// csrc/cuda/launch.h for a host compiler: a launch calls its kernel once per thread.
#pragma once

#include <functional>

#include "cuda/runtime.h"

namespace fcntag {
namespace cuda {

void launch_emulated(const void* kernel, const LaunchShape& shape, Stream stream, std::function<void()> work);

template <typename Params>
void launch(void (*kernel)(Params), const LaunchShape& shape, Stream stream, const Params& params) {
  launch_emulated(reinterpret_cast<const void*>(kernel), shape, stream, [kernel, params] { kernel(params); });
}

// `kernel` is compared with that of the graph's first launch.
void set_first_emulated(Graph& graph, const void* kernel, const LaunchShape& shape, std::function<void()> work);

template <typename Params>
void set_first_launch(Graph& graph, void (*kernel)(Params), const LaunchShape& shape, const Params& params) {
  set_first_emulated(graph, reinterpret_cast<const void*>(kernel), shape, [kernel, params] { kernel(params); });
}

}  // namespace cuda
}  // namespace fcntag
