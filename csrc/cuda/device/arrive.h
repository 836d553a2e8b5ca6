// CTAs of one kernel that finish each other's work: the last one to arrive at a counter goes on, and sees what the
// others have written.
#pragma once

#include "cuda/device/device.h"

namespace fcntag {
namespace dev {

// Called by all threads of a CTA, after their writes to global memory. True in the last of `total` CTAs that arrive at
// `counter`, and false in the others, which nobody waits for. The last one leaves 0 for the next launch. What the
// others wrote is read by load_fresh().
FCNTAG_DEVICE bool arrive_last(int* counter, int total) {
  fence();
  sync();
  const bool last = threadIdx.x == 0 && atomic_add(counter, 1) == total - 1;
  if (!sync_or(last)) return false;
  if (threadIdx.x == 0) *counter = 0;
  fence();
  return true;
}

}  // namespace dev
}  // namespace fcntag
