// The maximum over a block of threads.
#pragma once

#include "cuda/device/device.h"

namespace fcntag {
namespace cuda {

// The largest of all threads' `value`, for all of them; `slots` holds a float per warp.
template <int kWarps>
FCNTAG_DEVICE float block_maximum(float value, float* slots) {
  const int thread = static_cast<int>(threadIdx.x);
  FCNTAG_UNROLL for (int other = 16; other > 0; other /= 2) value = fmaxf(value, dev::shuffle_xor(value, other));
  if ((thread & 31) == 0) slots[thread >> 5] = value;
  dev::sync();
  FCNTAG_UNROLL for (int warp = 0; warp < kWarps; ++warp) value = fmaxf(value, slots[warp]);
  return value;
}

}  // namespace cuda
}  // namespace fcntag
