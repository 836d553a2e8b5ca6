// The shape of a CTA of conv_block, which is compiled in: its warps, what each computes, and what the CTA stages.
#pragma once

#include "cuda/conv/conv_math.h"
#include "cuda/conv/conv_params.h"
#include "cuda/device/device.h"

namespace fcntag {
namespace cuda {

// CTAs of so many threads whose registers a multiprocessor has.
constexpr int registers_allow(int threads, int registers) { return 65536 / ((registers + 7) / 8 * 8 * threads); }

// A warp computes kHalves halves of 8 rows by kGroups groups of 32 channels. Shapes of more than 16 halves of a group
// need compute capability 8.0: on sm_75 they would spill registers, and bfloat16 and tf32 do not exist there.
//
// A warp of a wide shape has two groups: it loads less for the same products, and two CTAs of half as many rows share a
// multiprocessor, one of which computes while the other loads or stores.
//
// kChunked shapes have a second set of accumulators, in which the sums restart every chunk_blocks channel blocks. Only
// they can split the sums over CTAs.
//
// The weights of kStageTaps taps arrive between two barriers, in one of the two or three parts of a ring: those of a
// kernel row, or of one tap where shared memory is short or the kernel is 1x1.
template <typename Math_, int kHalves_, int kWarpsM_, int kWarpsN_, int kGroups_, bool kChunked_, int kStageTaps_>
struct ConvShape {
  using Math = Math_;
  static constexpr int kHalves = kHalves_, kWarpsM = kWarpsM_, kWarpsN = kWarpsN_, kGroups = kGroups_;
  static constexpr bool kChunked = kChunked_;
  static constexpr int kStageTaps = kStageTaps_, kRingTaps = ring_taps(kStageTaps, kGroups);
  static constexpr int kWarpChannels = kGroups * kGroupChannels;
  static constexpr int kThreads = 32 * kWarpsM * kWarpsN;
  static constexpr int kTileN = kWarpsN * kWarpChannels;
  static constexpr int kTapBytes = kTileN * kBlockBytes;       // weights of one tap
  static constexpr int kCopies = kTapBytes / (16 * kThreads);  // of them, copies of a thread
  // CTAs that a multiprocessor shall hold, as far as registers go. With 128 registers, the smallest shapes spill some
  // on every architecture but 9.0, whose figure is also the planner's, and one more shape on 7.5.
  static constexpr bool kSpills =
      dev::kCapability == 75
          ? kHalves <= 8
          : kHalves <= 4 && (dev::kCapability < 90 || dev::kCapability == 100 || dev::kCapability == 120);
  static constexpr int kSpare = kSpills ? 32 : 0;
  static constexpr int kResident =
      registers_allow(kThreads, kHalves * kGroups * 8 * (kChunked ? 2 : 1) + Math::kOtherRegisters + kSpare);
  static constexpr int kHaloTurn = kThreads / 8;  // pixels that the threads copy at a time
  static constexpr int kMinimumCapability = kHalves * kGroups > 16 || Math::kMinimumCapability > 75 ? 80 : 75;
  static_assert(kTapBytes % (16 * kThreads) == 0, "every thread copies the same number of chunks");
};

// Where the parts of a CTA's shared memory begin, in bytes: barriers are at 0, then come the offsets of the halo's
// pixels. The pooled maxima take the place of the halo behind the last pass, unless there are several passes.
template <typename Shape>
struct SharedLayout {
  int halo, halo_bytes, weights, maxima;
  FCNTAG_DEVICE explicit SharedLayout(const ConvParams& p) {
    halo = kBarrierBytes + (p.halo_pixels * 4 + kBlockBytes - 1) / kBlockBytes * kBlockBytes;
    halo_bytes = p.halo_pixels * kPixelBytes;
    weights = (halo + halo_bytes * p.halo_buffers + kBlockBytes - 1) / kBlockBytes * kBlockBytes;
    maxima = p.passes_h * p.passes_w > 1 ? weights + Shape::kRingTaps * Shape::kTapBytes : halo;
  }
};

}  // namespace cuda
}  // namespace fcntag
