// The conv_block kernel; see conv_params.h for the idea and conv_math.h for the inner products.
#pragma once

#include <type_traits>

#include "cuda/conv/conv_math.h"
#include "cuda/conv/conv_params.h"
#include "cuda/conv/epilogue.h"
#include "cuda/device/arrive.h"
#include "cuda/device/bulk.h"
#include "cuda/device/copy.h"
#include "cuda/device/device.h"
#include "cuda/device/prefetch.h"

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

// Copies the weights of one stage after the other into the ring. Where the architecture has bulk copies, a thread asks
// for a whole tap at a time, and barriers say when a stage is there. Elsewhere every thread copies its share beside the
// products.
template <typename Shape>
struct WeightCopies {
  static constexpr int kStageBytes = Shape::kStageTaps * Shape::kTapBytes,
                       kRingBytes = Shape::kRingTaps * Shape::kTapBytes;
  const uint8_t* source;      // of the thread, in the next tap
  dev::SharedAddress target;  // of the thread, in the ring's first place
  int place;                  // in the ring, bytes
  int left;                   // taps that are still to be copied

  FCNTAG_DEVICE static dev::SharedAddress barrier(int at) {
    return dev::shared_address(dev::shared_memory()) + at / kStageBytes * 8;
  }

  // Once a CTA, before start().
  FCNTAG_DEVICE void prepare() {
    place = 0;
    if (!dev::bulk_copies() || dev::thread_index() != 0) return;
    for (int at = 0; at < kRingBytes; at += kStageBytes) dev::bulk_barrier(barrier(at));
  }
  // Begins a pass of `taps` taps: copies all of the ring but one stage.
  FCNTAG_DEVICE void start(const ConvParams& p, int first_block, int taps) {
    const int thread = dev::thread_index();
    const int64_t step = static_cast<int64_t>(p.n_padded) * kBlockBytes;
    source = static_cast<const uint8_t*>(p.weight) + first_block * p.taps * step +
             static_cast<int64_t>(conv_tile(p, Shape::kTileN).channel) * kBlockBytes +
             (dev::bulk_copies() ? 0 : thread * 16);
    target = dev::shared_address(dev::shared_memory()) + SharedLayout<Shape>(p).weights +
             (dev::bulk_copies() ? 0 : thread * 16);
    left = taps;
    if (dev::bulk_copies()) {
      FCNTAG_NO_UNROLL for (int at = kStageBytes; at < kRingBytes; at += kStageBytes) bulk_stage(p);
    } else {
      FCNTAG_NO_UNROLL for (int tap = 0; tap < Shape::kRingTaps - Shape::kStageTaps; ++tap) {
        FCNTAG_UNROLL for (int part = 0; part < Shape::kCopies; ++part) copy(part);
        advance(p);
        dev::copy_commit();
      }
    }
  }
  // Waits for what start() has asked for, where nobody will use it: it must not arrive in another CTA's memory.
  FCNTAG_DEVICE void abandon() const {
    if (!dev::bulk_copies() || dev::thread_index() != 0) return;
    for (int at = 0; at < place; at += kStageBytes) dev::bulk_wait(barrier(at), 0);
  }
  // Asks for the next stage, if there is one.
  FCNTAG_DEVICE void bulk_stage(const ConvParams& p) {
    if (left <= 0) return;
    if (dev::thread_index() == 0) {
      dev::bulk_expect(barrier(place), kStageBytes);
      FCNTAG_UNROLL for (int tap = 0; tap < Shape::kStageTaps; ++tap) {
        dev::bulk_copy(target + place + tap * Shape::kTapBytes,
                       source + tap * (static_cast<int64_t>(p.n_padded) * kBlockBytes), Shape::kTapBytes,
                       barrier(place));
      }
    }
    source += Shape::kStageTaps * (static_cast<int64_t>(p.n_padded) * kBlockBytes);
    place = place + kStageBytes == kRingBytes ? 0 : place + kStageBytes;
    left -= Shape::kStageTaps;
  }
  FCNTAG_DEVICE void copy(int part) const {
    if (left > 0) {
      dev::copy_async(target + place + part * Shape::kThreads * 16, source + part * Shape::kThreads * 16, true);
    }
  }
  FCNTAG_DEVICE void advance(const ConvParams& p) {
    if (left <= 0) return;  // the next pass goes on from this place
    source += static_cast<int64_t>(p.n_padded) * kBlockBytes;
    place = place + Shape::kTapBytes == kRingBytes ? 0 : place + Shape::kTapBytes;
    --left;
  }
};

// Copies a channel block of the halo. Eight threads copy the chunks of one pixel; the halo ends on a whole number of
// turns of the CTA's threads.
template <typename Shape>
struct HaloCopies {
  int offset;  // of the next pixel, where its offset lies in shared memory
  dev::SharedAddress target;
  const uint8_t* source;  // of the tile's first image and of the block, for all threads
  uint32_t chunk;         // of the thread, bytes
  bool inside;            // the thread's chunk exists in this block
  int left;               // turns

  FCNTAG_DEVICE void start(const ConvParams& p, int block, int buffer) {
    const int thread = dev::thread_index();
    const SharedLayout<Shape> layout(p);
    const int64_t image = conv_tile(p, Shape::kTileN).image;
    chunk = (thread & 7) * 16;
    offset = kBarrierBytes + (thread >> 3) * 4;
    target = dev::shared_address(dev::shared_memory()) + layout.halo + buffer + (thread >> 3) * kPixelBytes + chunk;
    source =
        static_cast<const uint8_t*>(p.x) + image * (p.height * p.width) * p.pixel_chunks * 16 + block * kBlockBytes;
    inside = block * kFullChunks + (thread & 7) < p.pixel_chunks;
    left = p.halo_turns;
  }
  // Turn `turn` of those that advance() has not passed. Their addresses differ by constants: a copy's registers are
  // free only when it has been issued, and to count along would wait for that.
  FCNTAG_DEVICE void copy(int turn) const {
    const uint32_t from =
        *reinterpret_cast<const uint32_t*>(dev::shared_memory() + offset + turn * Shape::kHaloTurn * 4);
    dev::copy_async(target + turn * Shape::kHaloTurn * kPixelBytes, source + (from + chunk),
                    from != kOutside && inside);
  }
  FCNTAG_DEVICE void advance(int turns) {
    offset += turns * (Shape::kHaloTurn * 4);
    target += turns * (Shape::kHaloTurn * kPixelBytes);
    left -= turns;
  }
  FCNTAG_DEVICE void copy_all() const {
    FCNTAG_UNROLL_BY(4) for (int turn = 0; turn < left; ++turn) copy(turn);
    dev::copy_commit();
  }
};

// Where the sums are, between two barriers: a kernel row, or one tap.
template <typename Shape>
struct Stage {
  int block, row, column;
  int pairs;        // of chunks, in this block
  int place;        // of its weights in the ring, bytes; goes on from pass to pass
  uint32_t parity;  // of the phase in which they arrive
  int toggle;       // from the halo of this block to that of the next one, bytes

  FCNTAG_DEVICE void start(const ConvParams& p, int first_block) {
    block = first_block;
    row = column = 0;
    toggle = p.halo_buffers == 2 ? SharedLayout<Shape>(p).halo_bytes : 0;
    set_pairs(p);
  }
  FCNTAG_DEVICE void set_pairs(const ConvParams& p) {
    pairs = block + 1 == p.channel_blocks ? p.last_chunks / 2 : kFullPairs;
  }
  FCNTAG_DEVICE bool first() const { return (row | column) == 0; }  // of its block
  // Where the next block's halo lies.
  FCNTAG_DEVICE int other_halo() const { return toggle > 0 ? toggle : 0; }
  // Returns how far the pixels move.
  FCNTAG_DEVICE int advance(const ConvParams& p) {
    constexpr int kRing = Shape::kRingTaps * Shape::kTapBytes;
    place += Shape::kStageTaps * Shape::kTapBytes;
    parity ^= place == kRing ? 1 : 0;
    place = place == kRing ? 0 : place;
    column += Shape::kStageTaps;
    if (column < p.kernel) return kPixelBytes;
    column = 0;
    if (++row < p.kernel) return (p.halo_w - p.kernel + Shape::kStageTaps) * kPixelBytes;
    row = 0;
    ++block;
    set_pairs(p);
    const int move = ((1 - p.kernel) * p.halo_w - p.kernel + Shape::kStageTaps) * kPixelBytes + toggle;
    toggle = -toggle;
    return move;
  }
};

template <typename Shape>
FCNTAG_DEVICE void compute_conv_block(const ConvParams& p) {
  using Math = typename Shape::Math;
  using Sums = typename Math::template Sums<Shape::kHalves, Shape::kGroups>;
  uint8_t* const shared = dev::shared_memory();
  const int passes = p.passes_h * p.passes_w;
  const bool split = Shape::kChunked && p.split == Split::kPartial;
  const int chunk = split ? static_cast<int>(blockIdx.y) : 0;
  const int first_block = split ? chunk * p.chunk_blocks : 0;
  int last_block = split ? first_block + p.chunk_blocks : p.channel_blocks;
  last_block = last_block < p.channel_blocks ? last_block : p.channel_blocks;

  // No kernel writes weights, so that they may be copied while the kernel before this one still runs.
  WeightCopies<Shape> weights;
  weights.prepare();
  weights.start(p, first_block, (last_block - first_block) * p.taps);
  const int cta = static_cast<int>(blockIdx.y * gridDim.x + blockIdx.x);
  const int ctas = static_cast<int>(gridDim.x * gridDim.y);
  dev::prefetch_slice(p.next_weight, p.next_bytes, cta, ctas, dev::thread_index(), Shape::kThreads);
  dev::release_successors();
  dev::wait_for_predecessors();
  if (conv_tile(p, Shape::kTileN).image >= p.io->count) {
    dev::copy_wait<0>();
    weights.abandon();
    return;
  }

  // The first copies of a pass; its weights have been started before.
  HaloCopies<Shape> halo;
  const auto start_halo = [&](int pass_y, int pass_x) {
    map_halo<Shape>(p, pass_y, pass_x);
    dev::sync_warp();
    halo.start(p, first_block, 0);
    halo.copy_all();
  };
  start_halo(0, 0);
  Stage<Shape> stage;
  stage.place = 0;
  stage.parity = 0;

  Sums sums, total;
  // Where sums are split, the passes come twice: to compute a chunk, and, in the CTA that is the last to have its
  // chunk, to add the chunks in order.
  int pass = 0, pass_y = 0, pass_x = 0;
  for (bool combine = false;;) {
    sums.clear();
    if (Shape::kChunked) total.clear();
    int until_restart = p.chunk_blocks;
    if (!combine) {
      dev::copy_wait<0>();
      dev::SharedAddress pixels[Sums::kPixels];
      const uint8_t* warp_weights = shared + SharedLayout<Shape>(p).weights;
      {
        const ThreadPlace<Shape> me;
        Math::template map_rows<Shape::kHalves>(p.rows + (pass * Shape::kWarpsM + me.warp_m) * Shape::kHalves * 8,
                                                dev::shared_address(shared) + SharedLayout<Shape>(p).halo, me.lane,
                                                pixels);
        warp_weights += Math::weights_of(me.warp_n * Shape::kGroups, me.lane);
      }
      stage.start(p, first_block);
      while (stage.block < last_block) {
        if (Shape::kRingTaps == 3 && !dev::bulk_copies()) {
          dev::copy_wait<1>();
        } else {
          dev::copy_wait<0>();
        }
        dev::sync();
        if (dev::bulk_copies()) {
          weights.bulk_stage(p);
          dev::bulk_wait(weights.barrier(stage.place), stage.parity);
        }
        if (stage.first()) {
          if (p.halo_buffers == 2) {
            halo.start(p, stage.block + 1, stage.other_halo());
          } else if (stage.block > first_block) {
            halo.start(p, stage.block, 0);
            halo.copy_all();
            dev::copy_wait<0>();
            dev::sync();
          }
        }
        int due = p.halo_buffers == 2 && stage.block + 1 < last_block ? p.halo_copies : 0;
        due = due < halo.left ? due : halo.left;
        const auto multiply = [&](auto kPairs, int tap) {
          const auto copy = [&](int turn) {
            FCNTAG_UNROLL for (int part = 0; part < Shape::kCopies; ++part) {
              if (!dev::bulk_copies() && part * kCopyTurns / Shape::kCopies == turn) weights.copy(part);
            }
            if (due > tap * kCopyTurns + turn) halo.copy(tap * kCopyTurns + turn);
          };
          Math::template multiply<decltype(kPairs)::value>(
              sums, pixels, tap * kPixelBytes, warp_weights + stage.place + tap * Shape::kTapBytes, stage.pairs, copy);
          if (!dev::bulk_copies()) weights.advance(p);
        };
        if (Math::kUnrolled && stage.pairs == kFullPairs) {
          FCNTAG_UNROLL for (int tap = 0; tap < Shape::kStageTaps; ++tap) {
            multiply(std::integral_constant<int, kFullPairs>{}, tap);
          }
        } else if (Math::kUnrolled && stage.pairs == kFullPairs / 2) {
          FCNTAG_UNROLL for (int tap = 0; tap < Shape::kStageTaps; ++tap) {
            multiply(std::integral_constant<int, kFullPairs / 2>{}, tap);
          }
        } else {
          FCNTAG_NO_UNROLL for (int tap = 0; tap < Shape::kStageTaps; ++tap) {
            multiply(std::integral_constant<int, 0>{}, tap);
          }
        }
        dev::copy_commit();
        halo.advance(due);
        const int move = stage.advance(p);
        FCNTAG_UNROLL for (int i = 0; i < Sums::kPixels; ++i) pixels[i] += move;
        if (Shape::kChunked && stage.first() && p.split == Split::kWhole && --until_restart == 0) {
          until_restart = p.chunk_blocks;
          total.add(sums);
          sums.clear();
        }
      }
      dev::copy_wait<0>();
      if (pass + 1 < passes) {  // what the next pass begins with arrives while this one is pooled
        dev::sync();            // all warps have read what is overwritten now
        weights.start(p, first_block, (last_block - first_block) * p.taps);
        const bool row_ends = pass_x + 1 == p.passes_w;
        start_halo(row_ends ? pass_y + 1 : pass_y, row_ends ? 0 : pass_x + 1);
      }
    }
    if (split) {
      // [chunk][cta][pass][accumulator][thread]: consecutive threads, consecutive floats
      const int64_t slab = (static_cast<int64_t>(blockIdx.x) * passes + pass) * Sums::kCount;
      const int64_t chunk_stride = static_cast<int64_t>(gridDim.x) * passes * Sums::kCount * Shape::kThreads;
      float* partial = p.partial + slab * Shape::kThreads + dev::thread_index();
      if (combine) {
        for (int c = 0; c < p.chunks; ++c) {
          sums.load(partial + c * chunk_stride, Shape::kThreads);
          total.add(sums);
        }
      } else {
        sums.store(partial + chunk * chunk_stride, Shape::kThreads);
      }
    } else if (Shape::kChunked && until_restart != p.chunk_blocks) {
      total.add(sums);
    }
    if (!split || combine) {
      if (pass == 0) dev::sync();  // with one pass, the maxima lie where the halo was
      pool_rows<Shape>(p, Shape::kChunked ? total : sums,
                       reinterpret_cast<float*>(shared + SharedLayout<Shape>(p).maxima), ThreadPlace<Shape>(),
                       pass > 0);
    }
    if (++pass_x == p.passes_w) {
      pass_x = 0;
      ++pass_y;
    }
    if (++pass < passes) continue;
    if (!split || combine) break;
    if (!dev::arrive_last(p.arrivals + blockIdx.x, p.chunks)) return;
    combine = true;
    pass = pass_y = pass_x = 0;
  }
  write_outputs<Shape>(p, reinterpret_cast<const float*>(shared + SharedLayout<Shape>(p).maxima));
}

template <typename Shape>
FCNTAG_KERNEL(Shape::kThreads, Shape::kResident)
conv_block(const FCNTAG_GRID_CONSTANT ConvParams p) {
  // The planner never chooses a shape that the architecture cannot run, so that it needs no code there.
  if constexpr (dev::kCapability >= Shape::kMinimumCapability) compute_conv_block<Shape>(p);
}

}  // namespace cuda
}  // namespace fcntag
