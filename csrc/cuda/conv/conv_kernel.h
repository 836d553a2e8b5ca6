// The conv_block kernel; see conv_params.h for the idea and conv_math.h for the inner products.
#pragma once

#include "cuda/conv/conv_math.h"
#include "cuda/conv/conv_params.h"
#include "cuda/conv/epilogue.h"
#include "cuda/device/copy.h"
#include "cuda/device/device.h"

namespace fcntag {
namespace cuda {

// A warp computes kHalves halves of 8 rows. Shapes of more than 16 need compute capability 8.0: on sm_75 the float16
// shape of 20 halves would spill registers, and bfloat16 and tf32 do not exist there.
//
// kChunked shapes have a second set of accumulators, in which the sums restart every chunk_blocks channel blocks. Only
// they can split the sums over CTAs.
template <typename Math_, int kHalves_, int kWarpsM_, int kWarpsN_, bool kChunked_>
struct ConvShape {
  using Math = Math_;
  static constexpr int kHalves = kHalves_, kWarpsM = kWarpsM_, kWarpsN = kWarpsN_;
  static constexpr bool kChunked = kChunked_;
  static constexpr int kThreads = 32 * kWarpsM * kWarpsN;
  static constexpr int kTileN = kWarpsN * kWarpChannels;
  static constexpr int kStageBytes = kTileN * kBlockBytes;
  static constexpr int kMinimumCapability = kHalves > 16 || Math::kMinimumCapability > 75 ? 80 : 75;
};

template <typename Shape>
FCNTAG_DEVICE void compute_conv_block(const ConvParams& p) {
  using Math = typename Shape::Math;
  const int thread = static_cast<int>(threadIdx.x), lane = thread & 31, warp = thread >> 5;
  const int warp_m = warp / Shape::kWarpsN, warp_n = warp % Shape::kWarpsN;
  const ConvTile tile = conv_tile(p, Shape::kTileN);

  uint8_t* shared = dev::shared_memory();
  int* offsets = reinterpret_cast<int*>(shared);
  const int offsets_bytes = (p.halo_pixels * 4 + kBlockBytes - 1) / kBlockBytes * kBlockBytes;
  const int halo_bytes = p.halo_pixels * kBlockBytes;
  uint8_t* halo = shared + offsets_bytes;
  uint8_t* weights = halo + halo_bytes * p.halo_buffers;
  const int passes = p.passes_h * p.passes_w;
  float* maxima = reinterpret_cast<float*>(passes > 1 ? weights + kStages * Shape::kStageBytes : halo);
  const dev::SharedAddress halo_address = dev::shared_address(halo);
  const dev::SharedAddress weights_address = dev::shared_address(weights);

  const int chunk = p.split == Split::kPartial ? static_cast<int>(blockIdx.y) : 0;
  const int first_block = p.split == Split::kPartial ? chunk * p.chunk_blocks : 0;
  int last_block = p.split == Split::kPartial ? first_block + p.chunk_blocks : p.channel_blocks;
  last_block = last_block < p.channel_blocks ? last_block : p.channel_blocks;
  const int steps = p.split == Split::kCombine ? 0 : (last_block - first_block) * p.taps;

  const auto staged_halo = [&](int block) {
    return halo_address + (p.halo_buffers == 2 ? ((block - first_block) & 1) * halo_bytes : 0);
  };
  const auto load_weights = [&](int step) {
    if (step >= steps) return;
    Math::template load_weights<Shape::kTileN, Shape::kThreads>(
        p, weights_address + step % kStages * Shape::kStageBytes, first_block * p.taps + step, tile.channel, thread);
  };
  // Part `part` of `parts` of the halo's channel block `block`.
  const auto load_halo = [&](int block, int part, int parts) {
    const int chunks = p.halo_pixels * 8;
    const int per_part = ((chunks + parts - 1) / parts + Shape::kThreads - 1) / Shape::kThreads * Shape::kThreads;
    const int end = (part + 1) * per_part < chunks ? (part + 1) * per_part : chunks;
    const dev::SharedAddress target = staged_halo(block);
    const uint8_t* x = static_cast<const uint8_t*>(p.x);
    for (int i = part * per_part + thread; i < end; i += Shape::kThreads) {
      const int pixel = i >> 3, c = i & 7, offset = offsets[pixel];
      const bool valid = offset >= 0 && block * 8 + c < p.pixel_chunks;
      const int64_t source = valid ? offset + static_cast<int64_t>(block) * 8 + c : 0;
      dev::copy_async(target + pixel * kBlockBytes + ((c ^ (pixel >> p.key_shift & 7)) << 4), x + source * 16, valid);
    }
  };

  // No kernel writes weights, so that their first stages may be copied while the kernel before this one still runs.
  for (int s = 0; s < kStages - 1; ++s) {
    load_weights(s);
    dev::copy_commit();
  }
  dev::release_successors();
  dev::wait_for_predecessors();
  const int images = p.io->count;
  if (tile.image >= images) {
    dev::copy_wait<0>();
    return;
  }

  typename Math::template Sums<Shape::kHalves> sums, total;
  for (int pass = 0; pass < passes; ++pass) {
    sums.clear();
    if (Shape::kChunked) total.clear();
    if (pass > 0) {  // all warps have read the weights that are overwritten now
      dev::sync();
      for (int s = 0; s < kStages - 1; ++s) {
        load_weights(s);
        dev::copy_commit();
      }
    }
    int pixels[Math::template Sums<Shape::kHalves>::kPixels];
    Math::template map_rows<Shape::kHalves>(p, pass, warp_m * p.groups, lane, pixels);
    if (steps > 0) {
      map_halo(p, tile, pass, images, offsets, thread, Shape::kThreads);
      dev::sync();
      load_halo(first_block, 0, 1);
      dev::copy_commit();
      dev::copy_wait<0>();
    }
    int block = first_block, tap = 0, stage = 0;  // counted along: divisions in every step would cost as much as a tap
    for (int step = 0; step < steps; ++step) {
      dev::copy_wait<kStages - 2>();
      dev::sync();
      if (tap == 0 && step > 0 && p.halo_buffers == 1) {
        load_halo(block, 0, 1);
        dev::copy_commit();
        dev::copy_wait<0>();
        dev::sync();
      }
      load_weights(step + kStages - 1);
      // A copy issued now has arrived kStages - 1 steps later: the next block's halo is complete when its turn comes.
      constexpr int kParts = 9 - (kStages - 1) + 1;
      if (p.halo_buffers == 2 && tap < kParts && block + 1 < last_block) load_halo(block + 1, tap, kParts);
      dev::copy_commit();
      const int offset = p.taps == 9 ? tap / 3 * p.halo_w + tap % 3 : 0;
      const dev::SharedAddress x = staged_halo(block);
      Math::template multiply<Shape::kHalves, Shape::kTileN>(
          sums, x, weights_address + stage * Shape::kStageBytes, pixels, offset, p.key_shift,
          block + 1 == p.channel_blocks ? p.last_chunks : 8, warp_n, lane);
      if (Shape::kChunked && p.split == Split::kWhole && tap == p.taps - 1 && (block + 1) % p.chunk_blocks == 0) {
        total.add(sums);
        sums.clear();
      }
      if (++tap == p.taps) {
        tap = 0;
        ++block;
      }
      stage = stage + 1 == kStages ? 0 : stage + 1;
    }
    dev::copy_wait<0>();
    if (Shape::kChunked) {
      // [chunk][cta][pass][accumulator][thread]: consecutive threads, consecutive floats
      constexpr int kSums = Math::template Sums<Shape::kHalves>::kCount;
      const int64_t slab = (static_cast<int64_t>(blockIdx.x) * passes + pass) * kSums;
      const int64_t chunk_stride = static_cast<int64_t>(gridDim.x) * passes * kSums;
      if (p.split == Split::kPartial) {
        sums.store(p.partial + (chunk * chunk_stride + slab) * Shape::kThreads + thread, Shape::kThreads);
        continue;
      }
      if (p.split == Split::kCombine) {
        for (int c = 0; c < p.chunks; ++c) {
          sums.load(p.partial + (c * chunk_stride + slab) * Shape::kThreads + thread, Shape::kThreads);
          total.add(sums);
        }
      } else if (p.channel_blocks % p.chunk_blocks != 0) {
        total.add(sums);
      }
    }
    const auto& whole = Shape::kChunked ? total : sums;
    if (pass == 0) dev::sync();  // with one pass, the maxima lie where the halo was
    pool_rows<Math, Shape::kHalves, Shape::kTileN>(p, whole, maxima, warp_m * p.groups, warp_n, lane, pass > 0);
  }
  if (p.split == Split::kPartial) return;
  dev::sync();
  write_outputs<Shape::kTileN, Shape::kThreads>(p, tile.image, tile.y, tile.x, tile.channel, images, maxima, thread);
}

template <typename Shape>
FCNTAG_KERNEL(Shape::kThreads, 1)
conv_block(const FCNTAG_GRID_CONSTANT ConvParams p) {
  // The planner never chooses a shape that the architecture cannot run, so that it needs no code there.
  if constexpr (dev::kCapability >= Shape::kMinimumCapability) compute_conv_block<Shape>(p);
}

}  // namespace cuda
}  // namespace fcntag
