// Launches of kernels: for the files that hold some, and for those that put them on a stream.
#pragma once

#include "cuda/runtime.h"

namespace fcntag {
namespace cuda {

// The end of launch() below. `kernel` and `params` as cudaLaunchKernelExC takes them.
void launch_kernel(const void* kernel, const LaunchShape& shape, Stream stream, void** params);

// Starts `kernel`, which takes one struct by value. Every launch may start while its predecessor on the stream still
// runs (programmatic dependent launch, where the hardware has it): kernels call dev::wait_for_predecessors().
template <typename Params>
void launch(void (*kernel)(Params), const LaunchShape& shape, Stream stream, const Params& params) {
  void* arguments[] = {const_cast<Params*>(&params)};
  launch_kernel(reinterpret_cast<const void*>(kernel), shape, stream, arguments);
}

}  // namespace cuda
}  // namespace fcntag
