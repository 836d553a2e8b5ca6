// Asynchronous copies from global to shared memory: they run on while their thread computes, until it waits for them.
#pragma once

#include <cstdint>

#include "cuda/device/device.h"

namespace fcntag {
namespace dev {

// 16 bytes from global to shared memory, or 16 zero bytes where `valid` is false (`source` is then not read).
FCNTAG_DEVICE void copy_async(SharedAddress target, const void* source, bool valid) {
#if __CUDA_ARCH__ >= 800
  const int bytes = valid ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(target), "l"(source), "r"(bytes) : "memory");
#else
  const uint4 v = valid ? *static_cast<const uint4*>(source) : make_uint4(0, 0, 0, 0);
  asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(target), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w)
               : "memory");
#endif
}
FCNTAG_DEVICE void copy_commit() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
// All of this thread's groups but the newest `kPending` have arrived; other threads see them after a barrier.
template <int kPending>
FCNTAG_DEVICE void copy_wait() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
#endif
}

}  // namespace dev
}  // namespace fcntag
