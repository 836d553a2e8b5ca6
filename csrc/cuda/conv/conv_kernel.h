// The conv_block kernel; see conv_params.h for the idea and conv_math.h for the inner products.
#pragma once

#include <type_traits>

#include "cuda/conv/conv_math.h"
#include "cuda/conv/conv_params.h"
#include "cuda/conv/epilogue.h"
#include "cuda/device/arrive.h"
#include "cuda/device/copy.h"
#include "cuda/device/device.h"
#include "cuda/device/prefetch.h"

namespace fcntag {
namespace cuda {

// A warp computes kHalves halves of 8 rows. Shapes of more than 16 need compute capability 8.0: on sm_75 the float16
// shape of 20 halves would spill registers, and bfloat16 and tf32 do not exist there.
//
// kChunked shapes have a second set of accumulators, in which the sums restart every chunk_blocks channel blocks. Only
// they can split the sums over CTAs.
// CTAs of so many threads whose registers a multiprocessor has.
constexpr int registers_allow(int threads, int registers) { return 65536 / ((registers + 7) / 8 * 8 * threads); }

//
// The weights of kStageTaps taps arrive between two barriers, in half of the ring or in one of its three places: those
// of a kernel row, or of one tap where shared memory is short or the kernel is 1x1.
template <typename Math_, int kHalves_, int kWarpsM_, int kWarpsN_, bool kChunked_, int kStageTaps_>
struct ConvShape {
  using Math = Math_;
  static constexpr int kHalves = kHalves_, kWarpsM = kWarpsM_, kWarpsN = kWarpsN_;
  static constexpr bool kChunked = kChunked_;
  static constexpr int kStageTaps = kStageTaps_, kRingTaps = ring_taps(kStageTaps);
  static constexpr int kThreads = 32 * kWarpsM * kWarpsN;
  static constexpr int kTileN = kWarpsN * kWarpChannels;
  static constexpr int kTapBytes = kTileN * kBlockBytes;       // weights of one tap
  static constexpr int kCopies = kTapBytes / (16 * kThreads);  // of them, copies of a thread
  // CTAs that a multiprocessor shall hold, as far as registers go.
  static constexpr int kResident = registers_allow(kThreads, kHalves * 8 * (kChunked ? 2 : 1) + Math::kOtherRegisters);
  static constexpr int kHaloTurn = kThreads / 8;  // pixels that the threads copy at a time
  static constexpr int kMinimumCapability = kHalves > 16 || Math::kMinimumCapability > 75 ? 80 : 75;
  static_assert(kTapBytes % (16 * kThreads) == 0, "every thread copies the same number of chunks");
};

// Copies the weights of one tap after the other into the ring.
template <typename Shape>
struct WeightCopies {
  const uint8_t* source;      // of the thread, in the next tap
  int64_t step;               // to the same place in the tap after it
  dev::SharedAddress target;  // of the thread, in the ring's first place
  int place, ring;            // bytes
  int left;                   // taps that are still to be copied

  FCNTAG_DEVICE void copy(int part) const {
    if (left > 0) {
      dev::copy_async(target + place + part * Shape::kThreads * 16, source + part * Shape::kThreads * 16, true);
    }
  }
  FCNTAG_DEVICE void advance() {
    source += step;
    place += Shape::kTapBytes;
    if (place == ring) place = 0;
    --left;
  }
  FCNTAG_DEVICE void copy_tap() {
    FCNTAG_UNROLL for (int part = 0; part < Shape::kCopies; ++part) copy(part);
    advance();
    dev::copy_commit();
  }
};

// Where the sums are, between two barriers: a kernel row, or one tap. Counted along without branches, as the products
// run beside it.
template <typename Shape>
struct Stage {
  int block, last_block, row, column;
  int pairs;                 // of chunks, in this block
  int place;                 // of its weights in the ring, bytes
  int toggle;                // from the halo of this block to that of the next one, bytes
  int next_row, next_block;  // moves, in bytes
  bool first;                // of its block

  FCNTAG_DEVICE void start(const ConvParams& p, int first_block, int end_block, int to_next_row, int to_next_block,
                           int halo_bytes) {
    block = first_block;
    last_block = end_block;
    row = column = place = 0;
    next_row = to_next_row;
    next_block = to_next_block;
    toggle = p.halo_buffers == 2 ? halo_bytes : 0;
    first = true;
    set_pairs(p);
  }
  FCNTAG_DEVICE void set_pairs(const ConvParams& p) {
    pairs = block + 1 == p.channel_blocks ? p.last_chunks / 2 : kFullPairs;
  }
  // Where the next block's halo lies.
  FCNTAG_DEVICE int other_halo() const { return toggle > 0 ? toggle : 0; }
  // Turns of the next block's halo to copy in this stage, of those that are left.
  FCNTAG_DEVICE int copies(const ConvParams& p, int& left) const {
    int due = p.halo_buffers == 2 && block + 1 < last_block ? p.halo_copies : 0;
    due = due < left ? due : left;
    left -= due;
    return due;
  }
  // Returns how far the pixels move.
  FCNTAG_DEVICE int advance(const ConvParams& p, int bytes, int ring) {
    place += bytes;
    place = place == ring ? 0 : place;
    column += Shape::kStageTaps;
    const bool row_ends = column == p.kernel;
    column = row_ends ? 0 : column;
    row += row_ends ? 1 : 0;
    first = row == p.kernel;
    row = first ? 0 : row;
    block += first ? 1 : 0;
    const int move = first ? next_block + toggle : row_ends ? next_row : kPixelBytes;
    toggle = first ? -toggle : toggle;
    set_pairs(p);
    return move;
  }
};

// Copies a channel block of the halo. Eight threads copy the chunks of one pixel; the halo ends on a whole number of
// turns of the CTA's threads.
template <typename Shape>
struct HaloCopies {
  static constexpr int kPixels = Shape::kHaloTurn;
  const uint32_t* offset;  // of the next pixel
  dev::SharedAddress target;
  const uint8_t* source;  // of the tile's first image and of the block, for all threads
  bool inside;            // the thread's chunk exists in this block
  int left;               // copies

  FCNTAG_DEVICE void start(const ConvParams& p, const uint8_t* x, const uint32_t* offsets, dev::SharedAddress halo,
                           int block, int buffer, int thread) {
    offset = offsets + (thread >> 3);
    target = halo + buffer + (thread >> 3) * kPixelBytes + (thread & 7) * 16;
    source = x + block * kBlockBytes;
    inside = block * kFullChunks + (thread & 7) < p.pixel_chunks;
    left = p.halo_turns;
  }
  // start() for the block after the stage's, if the stage is the first of its block; without a branch.
  FCNTAG_DEVICE void restart(const ConvParams& p, const uint8_t* x, const uint32_t* offsets, dev::SharedAddress halo,
                             const Stage<Shape>& stage, int thread) {
    HaloCopies next;
    next.start(p, x, offsets, halo, stage.block + 1, stage.other_halo(), thread);
    offset = stage.first ? next.offset : offset;
    target = stage.first ? next.target : target;
    source = stage.first ? next.source : source;
    inside = stage.first ? next.inside : inside;
    left = stage.first ? next.left : left;
  }
  FCNTAG_DEVICE void copy(int thread) {
    const uint32_t from = *offset;
    dev::copy_async(target, source + (from + (thread & 7) * 16), from != kOutside && inside);
    offset += kPixels;
    target += kPixels * kPixelBytes;
  }
  FCNTAG_DEVICE void copy_all(int thread) { FCNTAG_UNROLL_BY(4) for (int i = 0; i < left; ++i) copy(thread); }
};

template <typename Shape>
FCNTAG_DEVICE void compute_conv_block(const ConvParams& p) {
  using Math = typename Shape::Math;
  using Sums = typename Math::template Sums<Shape::kHalves>;
  const int thread = static_cast<int>(threadIdx.x), lane = thread & 31, warp = thread >> 5;
  const int warp_m = warp / Shape::kWarpsN, warp_n = warp % Shape::kWarpsN;
  const ConvTile tile = conv_tile(p, Shape::kTileN);

  uint8_t* shared = dev::shared_memory();
  uint32_t* offsets = reinterpret_cast<uint32_t*>(shared);
  const int halo_start = (p.halo_pixels * 4 + kBlockBytes - 1) / kBlockBytes * kBlockBytes;
  const int halo_bytes = p.halo_pixels * kPixelBytes;
  const int weights_start = (halo_start + halo_bytes * p.halo_buffers + kBlockBytes - 1) / kBlockBytes * kBlockBytes;
  const int passes = p.passes_h * p.passes_w;
  float* maxima = reinterpret_cast<float*>(
      shared + (passes > 1 ? weights_start + Shape::kRingTaps * Shape::kTapBytes : halo_start));
  const dev::SharedAddress halo = dev::shared_address(shared) + halo_start;

  const int chunk = p.split == Split::kPartial ? static_cast<int>(blockIdx.y) : 0;
  const int first_block = p.split == Split::kPartial ? chunk * p.chunk_blocks : 0;
  int last_block = p.split == Split::kPartial ? first_block + p.chunk_blocks : p.channel_blocks;
  last_block = last_block < p.channel_blocks ? last_block : p.channel_blocks;
  const bool split = Shape::kChunked && p.split == Split::kPartial;
  int steps = (last_block - first_block) * p.taps;

  WeightCopies<Shape> weights;
  HaloCopies<Shape> next_halo;
  const auto start_weights = [&] {
    weights.step = static_cast<int64_t>(p.n_padded) * kBlockBytes;
    weights.source = static_cast<const uint8_t*>(p.weight) + first_block * p.taps * weights.step +
                     static_cast<int64_t>(tile.channel) * kBlockBytes + thread * 16;
    weights.target = dev::shared_address(shared) + weights_start + thread * 16;
    weights.place = 0;
    weights.ring = Shape::kRingTaps * Shape::kTapBytes;
    weights.left = steps;
    FCNTAG_NO_UNROLL for (int tap = 0; tap < Shape::kRingTaps - Shape::kStageTaps; ++tap) weights.copy_tap();
  };

  // No kernel writes weights or tables, so that they may be read while the kernel before this one still runs.
  start_weights();
  const uint16_t* rows = p.rows + warp_m * Shape::kHalves * 8;
  dev::SharedAddress pixels[Sums::kPixels];
  Math::template map_rows<Shape::kHalves>(rows, halo, lane, pixels);
  const int cta = static_cast<int>(blockIdx.y * gridDim.x + blockIdx.x), ctas = static_cast<int>(gridDim.x * gridDim.y);
  dev::prefetch_slice(p.next_weight, p.next_bytes, cta, ctas, thread, Shape::kThreads);
  dev::release_successors();
  dev::wait_for_predecessors();
  const int images = p.io->count;
  if (tile.image >= images) {
    dev::copy_wait<0>();
    return;
  }

  const uint8_t* x =
      static_cast<const uint8_t*>(p.x) + static_cast<int64_t>(tile.image) * (p.height * p.width) * p.pixel_chunks * 16;
  // From the last stage of a kernel row to the first of the next one, and from the last stage of a block to the first.
  const int next_row = (p.halo_w - p.kernel + Shape::kStageTaps) * kPixelBytes;
  const int next_block = ((1 - p.kernel) * p.halo_w - p.kernel + Shape::kStageTaps) * kPixelBytes;
  Sums sums, total;
  // Where sums are split, the passes come twice: to compute a chunk, and, in the CTA that is the last to have its
  // chunk, to add the chunks in order.
  int pass = 0, pass_y = 0, pass_x = 0;
  for (bool combine = false;;) {
    sums.clear();
    if (Shape::kChunked) total.clear();
    if (pass > 0 && !combine) {  // all warps have read the weights that are overwritten now
      dev::sync();
      start_weights();
      Math::template map_rows<Shape::kHalves>(rows + pass * Shape::kWarpsM * Shape::kHalves * 8, halo, lane, pixels);
    }
    if (steps > 0) {
      map_halo<Shape>(p, tile, pass_y, pass_x, images, offsets, warp, lane);
      dev::sync_warp();
      next_halo.start(p, x, offsets, halo, first_block, 0, thread);
      next_halo.copy_all(thread);
      dev::copy_commit();
      dev::copy_wait<0>();
    }
    Stage<Shape> stage;
    stage.start(p, first_block, last_block, next_row, next_block, halo_bytes);
    next_halo.start(p, x, offsets, halo, first_block + 1, stage.other_halo(), thread);
    int due = stage.copies(p, next_halo.left);
    int until_restart = p.chunk_blocks;
    const uint8_t* warp_weights = shared + weights_start + warp_n * kGroupBytes;
    for (int step = 0; step < steps; step += Shape::kStageTaps) {
      dev::copy_wait<Shape::kStageTaps == 1 ? 1 : 0>();
      dev::sync();
      if (p.halo_buffers == 1 && stage.first && step > 0) {
        next_halo.start(p, x, offsets, halo, stage.block, 0, thread);
        next_halo.copy_all(thread);
        dev::copy_commit();
        dev::copy_wait<0>();
        dev::sync();
      }
      const auto multiply = [&](auto kPairs, int tap) {
        const auto copy = [&](int turn) {
          FCNTAG_UNROLL for (int part = 0; part < Shape::kCopies; ++part) {
            if (part * kCopyTurns / Shape::kCopies == turn) weights.copy(part);
          }
          if (due > tap * kCopyTurns + turn) next_halo.copy(thread);
        };
        Math::template multiply<Shape::kHalves, decltype(kPairs)::value>(
            sums, pixels, tap * kPixelBytes, warp_weights + stage.place + tap * Shape::kTapBytes, stage.pairs, lane,
            copy);
        weights.advance();
      };
      // What the next stage needs is computed here, beside the products: behind them, or behind the barrier, the tensor
      // cores would wait for it.
      const auto advance = [&] {
        dev::copy_commit();
        const int move = stage.advance(p, Shape::kStageTaps * Shape::kTapBytes, weights.ring);
        FCNTAG_UNROLL for (int i = 0; i < Sums::kPixels; ++i) pixels[i] += move;
        next_halo.restart(p, x, offsets, halo, stage, thread);
        due = stage.copies(p, next_halo.left);
      };
      if (Math::kUnrolled && stage.pairs == kFullPairs) {
        FCNTAG_UNROLL for (int tap = 0; tap < Shape::kStageTaps; ++tap) {
          multiply(std::integral_constant<int, kFullPairs>{}, tap);
        }
        advance();
      } else if (Math::kUnrolled && stage.pairs == kFullPairs / 2) {
        FCNTAG_UNROLL for (int tap = 0; tap < Shape::kStageTaps; ++tap) {
          multiply(std::integral_constant<int, kFullPairs / 2>{}, tap);
        }
        advance();
      } else {
        FCNTAG_NO_UNROLL for (int tap = 0; tap < Shape::kStageTaps; ++tap) {
          multiply(std::integral_constant<int, 0>{}, tap);
        }
        advance();
      }
      if (Shape::kChunked && stage.first && p.split == Split::kWhole && --until_restart == 0) {
        until_restart = p.chunk_blocks;
        total.add(sums);
        sums.clear();
      }
    }
    dev::copy_wait<0>();
    if (split) {
      // [chunk][cta][pass][accumulator][thread]: consecutive threads, consecutive floats
      const int64_t slab = (static_cast<int64_t>(blockIdx.x) * passes + pass) * Sums::kCount;
      const int64_t chunk_stride = static_cast<int64_t>(gridDim.x) * passes * Sums::kCount * Shape::kThreads;
      float* partial = p.partial + slab * Shape::kThreads + thread;
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
      const auto& whole = Shape::kChunked ? total : sums;
      if (pass == 0) dev::sync();  // with one pass, the maxima lie where the halo was
      pool_rows<Math, Shape::kHalves, Shape::kTileN>(p, whole, maxima, warp_m * p.groups, warp_n, lane, pass > 0);
    }
    if (++pass_x == p.passes_w) {
      pass_x = 0;
      ++pass_y;
    }
    if (++pass < passes) continue;
    if (!split || combine) break;
    if (!dev::arrive_last(p.arrivals + blockIdx.x, p.chunks)) return;
    combine = true;
    steps = pass = pass_y = pass_x = 0;
  }
  write_outputs<Shape>(p, tile, images, maxima, thread);
}

template <typename Shape>
FCNTAG_KERNEL(Shape::kThreads, Shape::kResident)
conv_block(const FCNTAG_GRID_CONSTANT ConvParams p) {
  // The planner never chooses a shape that the architecture cannot run, so that it needs no code there.
  if constexpr (dev::kCapability >= Shape::kMinimumCapability) compute_conv_block<Shape>(p);
}

}  // namespace cuda
}  // namespace fcntag
