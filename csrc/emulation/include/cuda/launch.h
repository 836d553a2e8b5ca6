// csrc/cuda/launch.h for a host compiler: a launch calls its kernel once per thread.
#pragma once

#include <functional>

#include "cuda/runtime.h"

namespace fcntag {
namespace cuda {

void launch_emulated(const LaunchShape& shape, Stream stream, std::function<void()> kernel);

template <typename Params>
void launch(void (*kernel)(Params), const LaunchShape& shape, Stream stream, const Params& params) {
  launch_emulated(shape, stream, [kernel, params] { kernel(params); });
}

}  // namespace cuda
}  // namespace fcntag
