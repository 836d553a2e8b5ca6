// The conv_block kernel; see conv_params.h for the idea, conv_shape.h for a CTA's work, conv_copies.h for what it
// stages and conv_math.h for the inner products.
#pragma once

#include <type_traits>

#include "cuda/conv/conv_copies.h"
#include "cuda/conv/conv_math.h"
#include "cuda/conv/conv_params.h"
#include "cuda/conv/conv_shape.h"
#include "cuda/conv/epilogue.h"
#include "cuda/device/arrive.h"
#include "cuda/device/bulk.h"
#include "cuda/device/copy.h"
#include "cuda/device/device.h"
#include "cuda/device/prefetch.h"

namespace fcntag {
namespace cuda {

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
