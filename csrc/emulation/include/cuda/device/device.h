// csrc/cuda/device/device.h for a host compiler: calls of the emulator take the place of instructions.
#pragma once

#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "emulation/emulator.h"

#define FCNTAG_KERNEL(threads, min_blocks) void
#define FCNTAG_DEVICE inline
#define FCNTAG_HOST_DEVICE inline
#define FCNTAG_UNROLL
#define FCNTAG_NO_UNROLL
#define FCNTAG_UNROLL_BY(n)
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
inline int thread_index() { return static_cast<int>(emulator::current().thread_index.x); }
inline int block_index() { return static_cast<int>(emulator::current().block_index.x); }
FCNTAG_NOINLINE void sync(FCNTAG_SITE) { emulator::barrier(site); }
FCNTAG_NOINLINE bool sync_or(bool value, FCNTAG_SITE) {
  static std::atomic<bool> any{false};  // one will do: blocks run one after the other
  if (value) any.store(true, std::memory_order_relaxed);
  emulator::barrier(site);
  const bool found = any.load(std::memory_order_relaxed);
  emulator::barrier(site);
  if (emulator::current().thread_index.x == 0) any.store(false, std::memory_order_relaxed);
  emulator::barrier(site);
  return found;
}
// The atomic operation orders, to ThreadSanitizer. Where a kernel forgets a fence, only a GPU would show it.
inline void fence() {}
inline int atomic_add(int* p, int value) { return __atomic_fetch_add(p, value, __ATOMIC_ACQ_REL); }
inline float load_fresh(const float* p) { return *p; }
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
inline void prefetch(const void* p) { emulator::prefetch(p); }
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
