// A thin layer over PTX, with the parts of a GPU that the kernels need. Asynchronous copies are in copy.h, the tensor
// cores in mma.h; convert.h and prefetch.h have conversions and loops made of the ones here.
//
// A kernel includes these headers and nothing else of CUDA. So it can be compiled with other implementations of them:
// the tests put a folder with headers of the same names first on the include path. Where an architecture lacks an
// instruction, another does its work (cp.async on sm_75), or the planner refuses the precision that would need it
// (bfloat16 on sm_75).
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#define FCNTAG_KERNEL(threads, min_blocks) __global__ void __launch_bounds__(threads, min_blocks)
#define FCNTAG_DEVICE __device__ __forceinline__
#define FCNTAG_HOST_DEVICE __host__ __device__ __forceinline__
#define FCNTAG_UNROLL _Pragma("unroll")
#define FCNTAG_NO_UNROLL _Pragma("unroll 1")
#define FCNTAG_PRAGMA(text) _Pragma(#text)
#define FCNTAG_UNROLL_BY(n) FCNTAG_PRAGMA(unroll n)
#define FCNTAG_GRID_CONSTANT __grid_constant__

namespace fcntag {
namespace dev {

using SharedAddress = uint32_t;

// Compute capability that this pass of the compiler is for, times 10; the host's pass compiles everything.
#if defined(__CUDA_ARCH__)
constexpr int kCapability = __CUDA_ARCH__ / 10;
#else
constexpr int kCapability = 1000;
#endif

extern __shared__ __align__(1024) uint8_t dynamic_shared[];

FCNTAG_DEVICE uint8_t* shared_memory() { return dynamic_shared; }
FCNTAG_DEVICE SharedAddress shared_address(const void* p) {
  return static_cast<SharedAddress>(__cvta_generic_to_shared(p));
}
// threadIdx.x, read anew at every call: it costs a few cycles, but no register from one use to the next.
FCNTAG_DEVICE int thread_index() {
  int r;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(r));
  return r;
}
// blockIdx.x, likewise.
FCNTAG_DEVICE int block_index() {
  int r;
  asm volatile("mov.u32 %0, %%ctaid.x;" : "=r"(r));
  return r;
}
FCNTAG_DEVICE void sync() { __syncthreads(); }
// The same; true in all threads if `value` is in one.
FCNTAG_DEVICE bool sync_or(bool value) { return __syncthreads_or(value) != 0; }
FCNTAG_DEVICE void sync_warp() { __syncwarp(); }
// What this thread has written before is seen by every CTA that sees what it writes after.
FCNTAG_DEVICE void fence() { __threadfence(); }
FCNTAG_DEVICE int atomic_add(int* p, int value) { return atomicAdd(p, value); }
// A value that another CTA of this kernel has written, past the caches of this multiprocessor.
FCNTAG_DEVICE float load_fresh(const float* p) { return __ldcg(p); }
template <typename T>
FCNTAG_DEVICE T shuffle_xor(T value, int mask) {
  return __shfl_xor_sync(0xffffffffu, value, mask);
}
template <typename T>
FCNTAG_DEVICE T shuffle(T value, int lane) {
  return __shfl_sync(0xffffffffu, value, lane);
}

// Two values, rounded to nearest even, in one word: `low` in the low half.
FCNTAG_DEVICE uint32_t pack_bfloat16(float low, float high) {
  uint32_t r = 0;
#if __CUDA_ARCH__ >= 800
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
#endif
  return r;
}
FCNTAG_DEVICE uint16_t to_float16(float x) {
  uint16_t r;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(r) : "f"(x));
  return r;
}
FCNTAG_DEVICE float from_float16(uint16_t x) {
  float r;
  asm("cvt.f32.f16 %0, %1;" : "=f"(r) : "h"(x));
  return r;
}
// Rounded to the nearest tf32, ties away from zero; still a float.
FCNTAG_DEVICE float round_tf32(float x) {
  uint32_t r = 0;
#if __CUDA_ARCH__ >= 800
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(r) : "f"(x));
#endif
  return __uint_as_float(r);
}
// The same pointer. One that was loaded from memory may point anywhere, as far as the compiler knows.
template <typename T>
FCNTAG_DEVICE T* global(T* p) {
  __builtin_assume(__isGlobal(p));
  return p;
}
// The 128 bytes around `p`, which are global memory, begin their way to the second-level cache. Nobody waits for them.
FCNTAG_DEVICE void prefetch(const void* p) { asm volatile("prefetch.global.L2 [%0];" ::"l"(p)); }
FCNTAG_DEVICE float as_float(uint32_t x) { return __uint_as_float(x); }
FCNTAG_DEVICE uint32_t as_word(float x) { return __float_as_uint(x); }

// Programmatic dependent launch: wait until the kernels before this one in the stream have written their results (at
// once where the launch had no such attribute), and let the next one start its prologue. Every kernel of a chain has
// to wait, also one that reads nothing of its predecessor: it may otherwise overtake the one before that.
FCNTAG_DEVICE void wait_for_predecessors() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
FCNTAG_DEVICE void release_successors() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

}  // namespace dev
}  // namespace fcntag
