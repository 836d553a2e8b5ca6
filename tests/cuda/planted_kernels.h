// Small kernels of the kind that fcntag is made of, each with bugs that a template parameter plants: what the emulator
// has to find. kNone is correct.
#pragma once

#include <cstdint>
#include <type_traits>

#include "cuda/device/copy.h"
#include "cuda/device/device.h"
#include "cuda/device/mma.h"
#include "cuda/device/prefetch.h"

namespace planted {

using fcntag::dev::SharedAddress;
namespace dev = fcntag::dev;

enum class Bug {
  kNone,
  // reverse_tiles
  kNoBarrierAfterWait,
  kNoBarrierBeforeReuse,
  kNoAsyncWait,
  kCopiesInFlight,
  kWaitTooDeep,
  kEarlyReturn,
  kReadBeyondInput,
  kMisalignedCopy,
  kUnwrittenOutput,
  kLateWaitForPredecessors,
  kNoWaitForPredecessors,
  // box_sum
  kHaloOffByOne,
  kNoBarrier,
  kTwoBarriers,
  kReadBeforeCheck,
  kReadBeyondShared,
  kWriteBeyondShared,
  kWriteBeyondOutput,
  kMisalignedVector,
  kOverlappingBlocks,
  // product
  kWrongHalf,
  kMisalignedMatrix,
  kHalfWarp,
  kOffsetForAddress,
  kNoSwizzle,
  // rotate_and_swap
  kShuffleForBarrier,
  kDeadlock,
  // scale
  kPrefetchBeyond,
  kPrefetchGap,
};

// ---- the kernel before: x[i] = scale * (i % 251 - 125) ----

struct FillParams {
  float* x;
  int n;
  float scale;
};

inline FCNTAG_KERNEL(128, 1) fill(const FCNTAG_GRID_CONSTANT FillParams p) {
  dev::wait_for_predecessors();
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < p.n) p.x[i] = p.scale * static_cast<float>(i % 251 - 125);
}

// ---- y: every tile of x from back to front. Two stages of asynchronous copies. ----

constexpr int kReverseThreads = 128, kReverseTile = 4 * kReverseThreads, kReverseTiles = 5;
constexpr int kReverseShared = 2 * kReverseTile * 4;

struct ReverseParams {
  const float* x;  // [n], n a multiple of 4; zeros behind it
  float* y;        // [n]
  int n;
};

template <Bug kBug>
FCNTAG_KERNEL(kReverseThreads, 1)
reverse_tiles(const FCNTAG_GRID_CONSTANT ReverseParams p) {
  const int thread = static_cast<int>(threadIdx.x);
  const int first_tile = static_cast<int>(blockIdx.x) * kReverseTiles;
  const float* stages = reinterpret_cast<const float*>(dev::shared_memory());
  const SharedAddress address = dev::shared_address(stages);
  const auto load = [&](int tile) {
    const int i = (first_tile + tile) * kReverseTile + thread * 4;
    const bool valid = i < p.n || (kBug == Bug::kReadBeyondInput && i == p.n);
    const int offset = kBug == Bug::kMisalignedCopy ? 2 : 0;
    dev::copy_async(address + (tile % 2 * kReverseTile + thread * 4) * 4, p.x + (valid ? i + offset : 0), valid);
  };

  constexpr bool kLate = kBug == Bug::kLateWaitForPredecessors;
  if (kBug == Bug::kEarlyReturn && thread == 5) return;
  if (!kLate && kBug != Bug::kNoWaitForPredecessors) dev::wait_for_predecessors();
  load(0);
  dev::copy_commit();
  if (kLate) dev::wait_for_predecessors();
  for (int tile = 0; tile < kReverseTiles; ++tile) {
    if (tile + 1 < kReverseTiles || kBug == Bug::kCopiesInFlight) load(tile + 1);
    dev::copy_commit();
    if (kBug != Bug::kNoAsyncWait) dev::copy_wait<kBug == Bug::kWaitTooDeep ? 2 : 1>();
    if (kBug != Bug::kNoBarrierAfterWait) dev::sync();
    for (int j = 0; j < 4; ++j) {
      const int i = j * kReverseThreads + thread, target = (first_tile + tile) * kReverseTile + i;
      if (kBug == Bug::kUnwrittenOutput && target == p.n - 1) continue;
      if (target < p.n) p.y[target] = stages[tile % 2 * kReverseTile + kReverseTile - 1 - i];
    }
    if (kBug != Bug::kNoBarrierBeforeReuse) dev::sync();
  }
  if (kBug != Bug::kCopiesInFlight) dev::copy_wait<0>();
}

// ---- y: sums over 3 x 3, zeros around the map. Tiles with a halo in shared memory. ----

constexpr int kBoxW = 16, kBoxH = 8, kHaloW = kBoxW + 2, kHaloH = kBoxH + 2;
constexpr int kBoxShared = kHaloW * kHaloH * 4;

struct BoxParams {
  const float* x;  // [height, width]
  float* y;        // the same
  int height, width;
};

template <Bug kBug>
FCNTAG_KERNEL(kBoxW* kBoxH, 1)
box_sum(const FCNTAG_GRID_CONSTANT BoxParams p) {
  const int thread = static_cast<int>(threadIdx.x), column = thread % kBoxW, row = thread / kBoxW;
  constexpr int kStep = kBug == Bug::kOverlappingBlocks ? kBoxH - 1 : kBoxH;
  const int x0 = static_cast<int>(blockIdx.x) * kBoxW, y0 = static_cast<int>(blockIdx.y) * kStep;
  const int left = kBug == Bug::kHaloOffByOne ? 0 : 1;
  float* halo = reinterpret_cast<float*>(dev::shared_memory());  // [kHaloH][kHaloW]
  dev::wait_for_predecessors();

  for (int i = thread; i < kHaloH * kHaloW; i += kBoxW * kBoxH) {
    const int y = y0 + i / kHaloW - 1, x = x0 + i % kHaloW - left;
    const bool inside = y >= 0 && y < p.height && x >= 0 && x < p.width;
    if (kBug == Bug::kReadBeforeCheck) {
      const float v = p.x[y * p.width + x];
      halo[i] = inside ? v : 0.0f;
    } else {
      halo[i] = inside ? p.x[y * p.width + x] : 0.0f;
    }
  }
  if (kBug == Bug::kWriteBeyondShared && thread == 0) halo[kHaloH * kHaloW] = 0.0f;
  if (kBug == Bug::kTwoBarriers && thread < 32) {
    dev::sync();
  } else if (kBug != Bug::kNoBarrier) {
    dev::sync();
  }

  const int y = y0 + row, x = x0 + column;
  float sum = 0.0f;
  for (int tap = 0; tap < 9; ++tap) sum += halo[(row + tap / 3) * kHaloW + column + tap % 3];
  if (kBug == Bug::kReadBeyondShared) sum += 0.0f * halo[(row + 3) * kHaloW + column + 2];
  if (kBug == Bug::kMisalignedVector) {
    const float* corner = &halo[row * kHaloW + column];
    sum += reinterpret_cast<const float2*>(corner)->x - corner[0];
  }
  if (y < p.height && x < p.width) p.y[y * p.width + x] = sum;
  if (kBug == Bug::kWriteBeyondOutput && y == p.height - 1 && x == p.width - 1) p.y[y * p.width + x + 1] = sum;
}

// ---- c = a b^T on tensor cores. A warp has 16 x 16 sums, a block 32 x 32; steps of 128 bytes along k. ----

constexpr int kProductTile = 32, kProductThreads = 128, kRowBytes = 128;
constexpr int kProductShared = 2 * kProductTile * kRowBytes;

struct ProductParams {
  const uint8_t* a;  // [m, k_bytes]
  const uint8_t* b;  // [n, k_bytes], k_bytes a multiple of 16
  float* c;          // [m, n]
  int m, n, k_bytes;
};

struct Bfloat16 {
  static constexpr int kBytes = 2;
  FCNTAG_DEVICE static void multiply(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    dev::mma_bfloat16(c, a, b0, b1);
  }
};
struct Float16 {
  static constexpr int kBytes = 2;
  FCNTAG_DEVICE static void multiply(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    dev::mma_float16(c, a, b0, b1);
  }
};
struct Tf32 {
  static constexpr int kBytes = 4;
  FCNTAG_DEVICE static void multiply(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    dev::mma_tf32(c, a, b0, b1);
  }
};

// Offset of 16-byte chunk `chunk` of a staged row. Eight rows of one chunk lie in different banks.
template <Bug kBug>
FCNTAG_DEVICE int staged(int row, int chunk) {
  return row * kRowBytes + (kBug == Bug::kNoSwizzle ? chunk : chunk ^ (row & 7)) * 16;
}

template <Bug kBug, typename Type>
FCNTAG_KERNEL(kProductThreads, 1)
product(const FCNTAG_GRID_CONSTANT ProductParams p) {
  const int thread = static_cast<int>(threadIdx.x), lane = thread & 31, warp = thread >> 5;
  const int m0 = static_cast<int>(blockIdx.y) * kProductTile, n0 = static_cast<int>(blockIdx.x) * kProductTile;
  const int warp_m = warp / 2 * 16, warp_n = warp % 2 * 16;
  const SharedAddress address = dev::shared_address(dev::shared_memory());
  const SharedAddress a_stage = kBug == Bug::kOffsetForAddress ? 0 : address;
  const SharedAddress b_stage = a_stage + kProductTile * kRowBytes;
  float c[2][4] = {};
  dev::wait_for_predecessors();

  const auto load = [&](SharedAddress stage, const uint8_t* rows, int first, int count, int k) {
    for (int i = thread; i < kProductTile * 8; i += kProductThreads) {
      const int row = i / 8, chunk = i % 8;
      const bool valid = first + row < count && k + chunk * 16 < p.k_bytes;
      const int64_t source = valid ? static_cast<int64_t>(first + row) * p.k_bytes + k + chunk * 16 : 0;
      dev::copy_async(stage + staged<kBug>(row, chunk), rows + source, valid);
    }
  };
  for (int k = 0; k < p.k_bytes; k += kRowBytes) {
    load(a_stage, p.a, m0, p.m, k);
    load(b_stage, p.b, n0, p.n, k);
    dev::copy_commit();
    dev::copy_wait<0>();
    dev::sync();
    for (int chunk = 0; chunk < 8; chunk += 2) {
      // a: rows 0-7 and 8-15 of one chunk, then of the next; b: both chunks of rows 0-7, then of 8-15.
      const int half = kBug == Bug::kWrongHalf ? lane >> 3 & 1 : lane >> 4;
      const int misalignment = kBug == Bug::kMisalignedMatrix ? 8 : 0;
      uint32_t a[4] = {}, b[4];
      if (kBug != Bug::kHalfWarp || lane < 16) {
        dev::load_matrix(a, a_stage + staged<kBug>(warp_m + (lane & 15), chunk + half) + misalignment);
      }
      dev::load_matrix(b, b_stage + staged<kBug>(warp_n + (lane & 7) + (lane >> 4) * 8, chunk + (lane >> 3 & 1)));
      Type::multiply(c[0], a, b[0], b[1]);
      Type::multiply(c[1], a, b[2], b[3]);
    }
    dev::sync();
  }

  for (int i = 0; i < 8; ++i) {
    const int m = m0 + warp_m + lane / 4 + i / 2 % 2 * 8, n = n0 + warp_n + i / 4 * 8 + lane % 4 * 2 + i % 2;
    if (m < p.m && n < p.n) p.c[m * p.n + n] = c[i / 4][i % 4];
  }
}

// ---- y[i] = the right neighbour of x[i] within 32 (through shared memory) + 3 times its neighbour at i ^ 1 ----

struct RotateParams {
  const double* x;  // [32 * blocks]
  double* y;        // the same
};

template <Bug kBug>
FCNTAG_KERNEL(32, 1)
rotate_and_swap(const FCNTAG_GRID_CONSTANT RotateParams p) {
  const int lane = static_cast<int>(threadIdx.x), i = static_cast<int>(blockIdx.x) * 32 + lane;
  double* values = reinterpret_cast<double*>(dev::shared_memory());  // [32]
  dev::wait_for_predecessors();
  const double x = p.x[i];
  values[lane] = x;
  double swapped;
  if (kBug == Bug::kDeadlock && lane >= 16) {
    dev::sync();
    swapped = 0.0;
  } else {
    swapped = dev::shuffle_xor(x, 1);
  }
  // A shuffle brings the lanes together but does not order their stores.
  if (kBug != Bug::kShuffleForBarrier) dev::sync_warp();
  p.y[i] = values[(lane + 1) % 32] + 3.0 * swapped + 0.0 * dev::shuffle(x, (lane * 7) % 32);
}

// ---- y = 2 x, with the weights of a later kernel on their way to the cache ----

constexpr int kScaleThreads = 64;

struct ScaleParams {
  const float* x;  // [n]
  float* y;        // [n]
  int n;
  const void* next;
  int64_t next_bytes;
};

template <Bug kBug>
FCNTAG_KERNEL(kScaleThreads, 1)
scale(const FCNTAG_GRID_CONSTANT ScaleParams p) {
  const int cta = static_cast<int>(blockIdx.x), ctas = static_cast<int>(gridDim.x);
  const int thread = static_cast<int>(threadIdx.x), i = cta * kScaleThreads + thread;
  dev::wait_for_predecessors();
  const float x = i < p.n ? p.x[i] : 0.0f;
  dev::prefetch_slice(p.next, kBug == Bug::kPrefetchBeyond ? 2 * p.next_bytes : p.next_bytes, cta,
                      kBug == Bug::kPrefetchGap ? 2 * ctas : ctas, thread, kScaleThreads);
  if (i < p.n) p.y[i] = 2.0f * x;
}

}  // namespace planted
