#include "check.h"
#include "cuda/conv/conv_first_tile.h"
#include "cuda/device/device.h"
#include "cuda/device/mma.h"

namespace fcntag {
namespace cuda {

namespace {

using PatchWord = uint32_t __attribute__((may_alias));

// Products of channels (the 16 rows of a matrix), taps (the inner dimension) and one element of each of 8 pool windows
// (the 8 columns). Lane l has rows g = l / 4 and g + 8 of the weights, and t = l % 4 is a row of taps: its first two
// are elements 2t and 2t + 1 of the inner dimension, its third is 8 + 2t. A lane's part of a window's pixels is
// therefore two words, of pixels c, c + 1 and c + 2, c + 3, of which the last meets a weight of zero. The patch lies in
// shared memory twice, so that both words are aligned whatever c is: words of the first copy begin at even columns,
// those of the second one at odd columns.
//
// A lane's 2 * kTiles channels are neighbours: row g of tile j is channel 2 * kTiles * g + 2j of the CTA's, and row
// g + 8 the one after it. It has them for two windows, 2t and 2t + 1 of the warp's.
template <int kTiles>
FCNTAG_KERNEL(kFirstThreads, kTiles == 2 && dev::kCapability < 100 ? 3 : 2)
conv_first_float16(const FCNTAG_GRID_CONSTANT FirstParams p) {
  constexpr int kChannels = 2 * kTiles;  // of a lane
  const int thread = static_cast<int>(threadIdx.x), lane = thread & 31, warp = thread >> 5;
  const int g = lane >> 2, t = lane & 3;
  const int channel = static_cast<int>(blockIdx.y) * (8 * kChannels) + g * kChannels;
  uint32_t a[kTiles][4];
  FCNTAG_UNROLL for (int j = 0; j < kTiles; ++j) {
    uint4 four = {0, 0, 0, 0};
    if (channel < p.n_padded) four = static_cast<const uint4*>(p.weight)[(channel / 2 + j) * 4 + t];
    a[j][0] = four.x;
    a[j][1] = four.y;
    a[j][2] = four.z;
    a[j][3] = four.w;
  }
  uint8_t* const memory = dev::shared_memory();
  float* const slots = reinterpret_cast<float*>(memory + p.buffers * p.buffer_bytes);
  float* const epilogues = slots + kFinishWarps;
  keep_epilogues(p, static_cast<int>(blockIdx.y) * (8 * kChannels), 8 * kChannels, epilogues);
  FirstPatch<float, kFirstHeld16> patch(p, slots);
  const int copy = p.patch_h * p.pitch;  // elements of one copy; the second begins with one that nobody reads
  // Windows that do not exist repeat the last one.
  const int windows = p.tile_h * p.tile_w, taken = warp * 8 + g < windows ? warp * 8 + g : windows - 1;
  const int tap_row = (taken >> p.tile_shift) * p.stride_h + (t < 3 ? t : 2);
  const int column = (taken & (p.tile_w - 1)) * p.stride_w;
  const auto word_at = [&](int c) { return (tap_row * p.pitch + c + (c & 1) * (copy + 1)) >> 1; };
  const int even = word_at(column), odd = word_at(column + 1), row_words = p.pitch >> 1;

  // Of the two windows that this lane ends, the first one's; they are neighbours in a row.
  const int own_window = warp * 8 + 2 * t, own_row = own_window >> p.tile_shift;
  const int own_column = own_window & (p.tile_w - 1);
  dev::release_successors();
  dev::wait_for_predecessors();
  const auto store = [&](const FirstTile& tile, uint8_t* buffer) {
    uint16_t* target = reinterpret_cast<uint16_t*>(buffer);
    patch.store(p, tile, [target, copy](int at, float value) {
      const uint16_t half = dev::to_float16(fminf(fmaxf(value, -65504.0f), 65504.0f));
      target[at] = half;
      target[copy + 1 + at] = half;
    });
  };
  const auto multiply = [&](const uint8_t* buffer, float (&best)[kTiles][4]) {
    const PatchWord* words = reinterpret_cast<const PatchWord*>(buffer);
    const PatchWord *even_words = words + even, *odd_words = words + odd;
    const auto element = [&](uint32_t low, uint32_t high, bool first) {
      FCNTAG_UNROLL for (int j = 0; j < kTiles; ++j) {
        float c[4];
        dev::product_float16(c, a[j], low, high);
        FCNTAG_UNROLL for (int i = 0; i < 4; ++i) best[j][i] = first ? c[i] : fmaxf(best[j][i], c[i]);
      }
    };
    const auto pair = [&](int k, bool first) {
      const uint32_t low = even_words[k], high = even_words[k + 1];
      const uint32_t odd_low = odd_words[k], odd_high = odd_words[k + 1];
      element(low, high, first);
      element(odd_low, odd_high, false);
    };
    const int pairs = p.pool_w >> 1, single = p.pool_w & 1;
    if (pairs > 0) {
      pair(0, true);
    } else {
      element(even_words[0], even_words[1], true);
    }
    int begin = 1;
    FCNTAG_NO_UNROLL for (int rows = p.pool_h; rows > 0; --rows) {
      FCNTAG_NO_UNROLL for (int k = begin; k < pairs; ++k) pair(k, false);
      begin = 0;
      if (single) element(even_words[pairs], even_words[pairs + 1], false);
      even_words += row_words;
      odd_words += row_words;
    }
  };
  const auto compute = [&](const FirstTile& tile, const uint8_t* buffer, const auto& load) {
    const bool works = warp * 8 < windows;
    float best[kTiles][4];
    if (works) multiply(buffer, best);
    load();
    if (!works) return;
    const LaneEpilogue<kChannels> epilogue(epilogues + g * kChannels, 8 * kChannels);
    const int y = tile.row * p.tile_h + own_row, x = tile.column * p.tile_w + own_column;
    const int64_t pixel = (static_cast<int64_t>(tile.image) * p.out_h + y) * p.out_w + x;
    FCNTAG_UNROLL for (int w = 0; w < 2; ++w) {
      if (own_window + w >= windows || y >= p.out_h || x + w >= p.out_w || channel >= p.out_stride) continue;
      float v[kChannels];
      FCNTAG_UNROLL for (int j = 0; j < kTiles; ++j) {
        v[2 * j] = best[j][w];
        v[2 * j + 1] = best[j][2 + w];
      }
      epilogue.apply(v, p.activation);
      store_channels(p.y, (pixel + w) * p.out_stride + channel, v, p.storage);
    }
  };
  run_tiles(p, memory, patch, store, compute);
}

}  // namespace

FirstKernel first_kernel_float16(int channels) {
  if (channels == 64) return &conv_first_float16<4>;
  FCNTAG_CHECK(channels == 32, "conv_first: no float16 kernel of ", channels, " channels; built: 32, 64");
  return &conv_first_float16<2>;
}

}  // namespace cuda
}  // namespace fcntag
