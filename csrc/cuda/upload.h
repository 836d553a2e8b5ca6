// Weights and tables on their way to the device.
#pragma once

#include <vector>

#include "cuda/runtime.h"

namespace fcntag {
namespace cuda {

// A copy of `values` in device memory, which is there for every stream when the call returns.
template <typename T>
DeviceMemory upload(const std::vector<T>& values) {
  DeviceMemory memory(values.size() * sizeof(T));
  upload(memory.as<void>(), values.data(), memory.bytes());
  return memory;
}

}  // namespace cuda
}  // namespace fcntag
