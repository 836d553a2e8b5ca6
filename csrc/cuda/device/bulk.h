// Copies of whole kilobytes from global to shared memory, by one thread, and barriers in shared memory that tell when
// they have arrived. Compute capability 9.0 and later.
#pragma once

#include <cstdint>

#include "cuda/device/device.h"

namespace fcntag {
namespace dev {

// Whether this architecture has them.
FCNTAG_DEVICE constexpr bool bulk_copies() { return kCapability >= 90; }

// Makes the 8 bytes at `barrier` one that a single thread arrives at. That thread may use it at once, others behind a
// sync().
FCNTAG_DEVICE void bulk_barrier(SharedAddress barrier) {
#if __CUDA_ARCH__ >= 900
  asm volatile("mbarrier.init.shared.b64 [%0], 1;\n\tfence.proxy.async.shared::cta;" ::"r"(barrier) : "memory");
#endif
}
// Begins a phase of the barrier, which ends when copies of `bytes` have arrived.
FCNTAG_DEVICE void bulk_expect(SharedAddress barrier, uint32_t bytes) {
#if __CUDA_ARCH__ >= 900
  asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
#endif
}
// Addresses and bytes are multiples of 16.
FCNTAG_DEVICE void bulk_copy(SharedAddress target, const void* source, uint32_t bytes, SharedAddress barrier) {
#if __CUDA_ARCH__ >= 900
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(target),
               "l"(source), "r"(bytes), "r"(barrier)
               : "memory");
#endif
}
// Waits for the end of a phase: `parity` is 0 for a barrier's first, 1 for its second, and so on in turns. What was
// copied is there for the threads that have waited.
FCNTAG_DEVICE void bulk_wait(SharedAddress barrier, uint32_t parity) {
#if __CUDA_ARCH__ >= 900
  asm volatile(
      "{\n\t"
      ".reg .pred done;\n\t"
      "again:\n\t"
      "mbarrier.try_wait.parity.shared.b64 done, [%0], %1;\n\t"
      "@!done bra again;\n\t"
      "}" ::"r"(barrier),
      "r"(parity)
      : "memory");
#endif
}

}  // namespace dev
}  // namespace fcntag
