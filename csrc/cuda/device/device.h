// What the kernels need of a GPU, as a thin layer: PTX under nvcc, the emulator under a host compiler
// (FCNTAG_EMULATED). Asynchronous copies are in copy.h, the tensor cores in mma.h.
//
// A kernel includes these headers and nothing else of CUDA, so the same source runs on machines without a GPU, under
// AddressSanitizer and ThreadSanitizer (csrc/emulation). Instructions that an architecture lacks fall back to what it
// has (cp.async on sm_75) or are never reached there, because the planner refuses the precision (bfloat16 on sm_75).
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if !defined(FCNTAG_EMULATED)
#include <cuda_runtime.h>

#define FCNTAG_KERNEL(threads, min_blocks) __global__ void __launch_bounds__(threads, min_blocks)
#define FCNTAG_DEVICE __device__ __forceinline__
#define FCNTAG_HOST_DEVICE __host__ __device__ __forceinline__
#define FCNTAG_UNROLL _Pragma("unroll")
#define FCNTAG_NO_UNROLL _Pragma("unroll 1")
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
FCNTAG_DEVICE void sync() { __syncthreads(); }
FCNTAG_DEVICE void sync_warp() { __syncwarp(); }
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

#else  // the emulator

#include "emulation/emulator.h"

#define FCNTAG_KERNEL(threads, min_blocks) void
#define FCNTAG_DEVICE inline
#define FCNTAG_HOST_DEVICE inline
#define FCNTAG_UNROLL
#define FCNTAG_NO_UNROLL
#define FCNTAG_GRID_CONSTANT

// A collective is known by its source line, not by its return address: the compiler may clone a call per branch.
#define FCNTAG_SITE int site = __builtin_LINE()
#define FCNTAG_NOINLINE __attribute__((noinline)) inline

namespace fcntag {
namespace dev {

using SharedAddress = uint32_t;

constexpr int kCapability = 1000;

inline uint8_t* shared_memory() { return emulator::current().shared; }
inline SharedAddress shared_address(const void* p) {
  return emulator::kSharedBase +
         static_cast<SharedAddress>(static_cast<const uint8_t*>(p) - emulator::current().shared);
}
FCNTAG_NOINLINE void sync(FCNTAG_SITE) { emulator::barrier(site); }
FCNTAG_NOINLINE void sync_warp(FCNTAG_SITE) { emulator::sync_warp(site); }
template <typename T>
FCNTAG_NOINLINE T shuffle_xor(T value, int mask, FCNTAG_SITE) {
  T out;
  emulator::shuffle(&out, &value, sizeof(T), (emulator::current().lane ^ mask) & 31, site);
  return out;
}
template <typename T>
FCNTAG_NOINLINE T shuffle(T value, int lane, FCNTAG_SITE) {
  T out;
  emulator::shuffle(&out, &value, sizeof(T), lane & 31, site);
  return out;
}
template <typename T>
inline T* global(T* p) {
  return p;
}
inline float as_float(uint32_t x) {
  float f;
  std::memcpy(&f, &x, 4);
  return f;
}
inline uint32_t as_word(float x) {
  uint32_t u;
  std::memcpy(&u, &x, 4);
  return u;
}
inline uint32_t pack_bfloat16(float low, float high) {
  return emulator::to_bfloat16(low) | static_cast<uint32_t>(emulator::to_bfloat16(high)) << 16;
}
inline uint16_t to_float16(float x) { return emulator::to_float16(x); }
inline float from_float16(uint16_t x) { return emulator::from_float16(x); }
inline float round_tf32(float x) {
  if (!std::isfinite(x)) return x;
  return as_float((as_word(x) + 0x1000u) & ~0x1fffu);
}
inline void wait_for_predecessors() { emulator::wait_for_predecessors(); }
inline void release_successors() {}

}  // namespace dev
}  // namespace fcntag

#endif

namespace fcntag {
namespace dev {

FCNTAG_DEVICE uint32_t pack_float16(float low, float high) {
  return to_float16(low) | static_cast<uint32_t>(to_float16(high)) << 16;
}
FCNTAG_DEVICE float from_bfloat16(uint16_t x) { return as_float(static_cast<uint32_t>(x) << 16); }

}  // namespace dev
}  // namespace fcntag
