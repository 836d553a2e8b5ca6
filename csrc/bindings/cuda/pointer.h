// Addresses of device memory and of streams, which Python has as integers.
#pragma once

#include <cstdint>

namespace fcntag {
namespace cuda {

inline void* pointer(uintptr_t address) { return reinterpret_cast<void*>(address); }

}  // namespace cuda
}  // namespace fcntag
