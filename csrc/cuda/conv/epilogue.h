// The end of a block, after its sums: the maximum of each pool window, then bias, activation and affine once a window.
//
// Activations are monotone and the affine's scale has been made positive (its sign went into the weights, see
// cpu/conv_block.h), so the maximum may be taken first.
#pragma once

#include "cuda/conv/conv_math.h"
#include "cuda/conv/conv_params.h"
#include "cuda/device/convert.h"
#include "cuda/device/device.h"
#include "model/network_spec.h"

namespace fcntag {
namespace cuda {

// What a channel's sums go through, after the maximum.
struct ChannelEpilogue {
  float sign, bias, scale, shift;
};

// `epilogue` [4][n_padded]: sign, bias, scale, shift.
FCNTAG_DEVICE ChannelEpilogue channel_epilogue(const float* epilogue, int n_padded, int channel) {
  return {epilogue[channel], epilogue[n_padded + channel], epilogue[2 * n_padded + channel],
          epilogue[3 * n_padded + channel]};
}

// y of the largest raw sum of a window.
FCNTAG_DEVICE float finish(float sum, const ChannelEpilogue& e, Activation activation) {
  float v = fmaf(sum, e.sign, e.bias);
  if (activation == Activation::kRelu) v = fmaxf(v, 0.0f);
  if (activation == Activation::kElu) {  // no branch: the threads of a warp would take both sides
    const float below = expm1f(fminf(v, 0.0f));
    v = v > 0.0f ? v : below;
  }
  return fmaf(v, e.scale, e.shift);
}

// Two neighbouring channels to y[index], y[index + 1]; index is even.
FCNTAG_DEVICE void store_pair(void* y, int64_t index, float a, float b, Storage storage) {
  constexpr float kLargestFloat16 = 65504.0f;
  if (storage == Storage::kBfloat16) {
    static_cast<uint32_t*>(y)[index / 2] = dev::pack_bfloat16(a, b);
  } else if (storage == Storage::kFloat16) {  // saturates: infinity times 0 would be no number
    a = fminf(fmaxf(a, -kLargestFloat16), kLargestFloat16);
    b = fminf(fmaxf(b, -kLargestFloat16), kLargestFloat16);
    static_cast<uint32_t*>(y)[index / 2] = dev::pack_float16(a, b);
  } else {
    const bool round = storage == Storage::kTf32;
    float2 pair;
    pair.x = round ? dev::round_tf32(a) : a;
    pair.y = round ? dev::round_tf32(b) : b;
    static_cast<float2*>(y)[index / 2] = pair;
  }
}

// Writes the maxima of the warp's windows to maxima [windows of the tile][Shape::kTileN + kStagePad]. With
// `accumulate`, a larger value that is there already stays.
template <typename Shape, typename Sums>
FCNTAG_DEVICE void pool_rows(const ConvParams& p, const Sums& sums, float* maxima, const ThreadPlace<Shape>& me,
                             bool accumulate) {
  const int first_group = me.warp_m * p.groups, warp_n = me.warp_n, lane = me.lane;
  const int windows_per_group = p.windows_per_group;
  const int slot = lane >> 2;
  float best[Sums::kLaneChannels];
  int group = 0, element = 0;
  FCNTAG_UNROLL for (int half = 0; half < Shape::kHalves; ++half) {
    FCNTAG_UNROLL for (int i = 0; i < Sums::kLaneChannels; ++i) {
      const float v = sums.value(half, i);
      best[i] = element == 0 ? v : fmaxf(best[i], v);
    }
    if (++element == p.elements) {
      if (group < p.groups) {
        FCNTAG_NO_UNROLL for (int other = windows_per_group; other < 8; other *= 2) {  // slots of the same window
          FCNTAG_UNROLL for (int i = 0; i < Sums::kLaneChannels; ++i) {
            best[i] = fmaxf(best[i], dev::shuffle_xor(best[i], other * 4));
          }
        }
        if (slot < windows_per_group) {
          const int window = (first_group + group) * windows_per_group + slot;
          float* row = maxima + window * (Shape::kTileN + kStagePad) + warp_n * Shape::kWarpChannels;
          FCNTAG_UNROLL for (int i = 0; i < Sums::kLaneChannels; i += 2) {
            float2* pair = reinterpret_cast<float2*>(row + Sums::channel(i, lane));
            float2 v;
            v.x = best[i];
            v.y = best[i + 1];
            if (accumulate) {
              v.x = fmaxf(v.x, pair->x);
              v.y = fmaxf(v.y, pair->y);
            }
            *pair = v;
          }
        }
      }
      element = 0;
      ++group;
    }
  }
}

template <typename Shape>
FCNTAG_DEVICE void write_outputs(const ConvParams& p, const float* maxima) {
  constexpr int kTileN = Shape::kTileN, kThreads = Shape::kThreads;
  constexpr int kPairs = kTileN / 2;  // a thread has the same two channels in every window
  static_assert(kThreads % kPairs == 0, "every thread has one pair");
  const int thread = dev::thread_index(), images = p.io->count;
  const ConvTile tile = conv_tile(p, kTileN);
  const int c = thread % kPairs * 2, n = tile.channel + c;
  const bool first = n < p.out_channels, second = n + 1 < p.out_channels;
  ChannelEpilogue epilogue[2] = {};
  if (first) epilogue[0] = channel_epilogue(p.epilogue, p.n_padded, n);
  if (second) epilogue[1] = channel_epilogue(p.epilogue, p.n_padded, n + 1);
  dev::sync();
  if (n >= p.out_stride) return;
  const int start = (tile.image * p.out_h + tile.y) * p.out_w + tile.x, end = images * p.out_h * p.out_w;
  const int windows = p.tile_n * p.tile_h * p.tile_w;
  const float* raw = maxima + thread / kPairs * (kTileN + kStagePad) + c;
  constexpr int kStep = kThreads / kPairs, kAtOnce = 4;  // windows whose latencies overlap
  for (int window = thread / kPairs; window < windows; window += kStep * kAtOnce) {
    TablePixel places[kAtOnce];
    float2 sums[kAtOnce];
    FCNTAG_UNROLL for (int i = 0; i < kAtOnce; ++i) {
      const bool exists = window + i * kStep < windows;
      places[i] = p.windows[exists ? window + i * kStep : window];
      if (!exists) places[i].y = INT16_MAX;
      sums[i] = *reinterpret_cast<const float2*>(raw + (exists ? i * kStep * (kTileN + kStagePad) : 0));
    }
    FCNTAG_UNROLL for (int i = 0; i < kAtOnce; ++i) {
      const int pixel = start + places[i].offset;
      if (tile.y + places[i].y >= p.out_h || tile.x + places[i].x >= p.out_w || pixel >= end) continue;
      // Channels that only fill up a pixel are zero: the next block multiplies them by zero, and must not find a NaN.
      const float a = first ? finish(sums[i].x, epilogue[0], p.activation) : 0.0f;
      const float b = second ? finish(sums[i].y, epilogue[1], p.activation) : 0.0f;
      store_pair(p.y, static_cast<int64_t>(pixel) * p.out_stride + n, a, b, p.storage);
    }
    raw += kStep * kAtOnce * (kTileN + kStagePad);
  }
}

}  // namespace cuda
}  // namespace fcntag
