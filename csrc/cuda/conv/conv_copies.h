// What a CTA of conv_block brings to shared memory while it multiplies: weights, the halo's next channel block, and
// where between them the sums are.
#pragma once

#include "cuda/conv/conv_math.h"
#include "cuda/conv/conv_params.h"
#include "cuda/conv/conv_shape.h"
#include "cuda/conv/conv_tile.h"
#include "cuda/device/bulk.h"
#include "cuda/device/copy.h"
#include "cuda/device/device.h"

namespace fcntag {
namespace cuda {

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

}  // namespace cuda
}  // namespace fcntag
