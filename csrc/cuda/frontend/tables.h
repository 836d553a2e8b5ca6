// Tables of a front end on their way to the device.
#pragma once

#include <vector>

#include "cuda/runtime.h"

namespace fcntag {
namespace cuda {

// A copy of `values` in device memory, which is there when the call returns.
template <typename T>
DeviceMemory upload_table(const std::vector<T>& values) {
  DeviceMemory memory(values.size() * sizeof(T));
  upload(memory.template as<void>(), values.data(), memory.bytes());
  return memory;
}

}  // namespace cuda
}  // namespace fcntag
