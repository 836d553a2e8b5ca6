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

// The end of set_first_launch() below.
void set_first_kernel(Graph& graph, const void* kernel, const LaunchShape& shape, void** params);

// Gives the first launch of a recorded graph other parameters; `kernel` and `shape` are as recorded. Replays that have
// been put on a stream keep the old ones.
template <typename Params>
void set_first_launch(Graph& graph, void (*kernel)(Params), const LaunchShape& shape, const Params& params) {
  void* arguments[] = {const_cast<Params*>(&params)};
  set_first_kernel(graph, reinterpret_cast<const void*>(kernel), shape, arguments);
}

}  // namespace cuda
}  // namespace fcntag
