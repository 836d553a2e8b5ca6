// Integer division by a number that the host knows, as a product: a division takes a GPU some 25 instructions.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define FCNTAG_DIVISOR_FUNCTION __host__ __device__ __forceinline__
#else
#define FCNTAG_DIVISOR_FUNCTION inline
#endif

namespace fcntag {
namespace cuda {

struct Divisor {
  uint32_t multiplier, shift;
};

// For d from 1 to 2^31 - 1. The product is rounded up by less than 1 / n, for n below 2^31.
inline Divisor divisor(int d) {
  Divisor by{1, 0};
  while ((int64_t{1} << by.shift) < d) ++by.shift;
  by.multiplier = static_cast<uint32_t>((((uint64_t{1} << by.shift) - d) << 32) / d + 1);
  return by;
}

// n / d, for n from 0 to 2^31 - 1.
FCNTAG_DIVISOR_FUNCTION int divide(int n, const Divisor& by) {
  const uint32_t value = static_cast<uint32_t>(n);
  const uint32_t high = static_cast<uint32_t>(static_cast<uint64_t>(value) * by.multiplier >> 32);
  return static_cast<int>((high + value) >> by.shift);
}

}  // namespace cuda
}  // namespace fcntag
