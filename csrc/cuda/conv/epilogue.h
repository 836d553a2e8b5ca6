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

// y of the largest raw sum of a window. `epilogue` [4][n_padded]: sign, bias, scale, shift.
FCNTAG_DEVICE float finish(float sum, const float* epilogue, int n_padded, int channel, Activation activation) {
  float v = fmaf(sum, epilogue[channel], epilogue[n_padded + channel]);
  if (activation == Activation::kRelu) v = fmaxf(v, 0.0f);
  if (activation == Activation::kElu) v = v > 0.0f ? v : expm1f(v);
  return fmaf(v, epilogue[2 * n_padded + channel], epilogue[3 * n_padded + channel]);
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

// Writes the maxima of the warp's windows to maxima [windows of the tile][kTileN + kStagePad]. With `accumulate`, a
// larger value that is there already stays.
template <typename Math, int kHalves, int kTileN, typename Sums>
FCNTAG_DEVICE void pool_rows(const ConvParams& p, const Sums& sums, float* maxima, int first_group, int warp_n,
                             int lane, bool accumulate) {
  const int windows_per_group = 8 / p.window_slots;
  const int slot = lane >> 2;
  float best[kLaneChannels];
  int group = 0, element = 0;
  FCNTAG_UNROLL for (int half = 0; half < kHalves; ++half) {
    FCNTAG_UNROLL for (int i = 0; i < kLaneChannels; ++i) {
      const float v = sums.value(half, i);
      best[i] = element == 0 ? v : fmaxf(best[i], v);
    }
    if (++element == p.elements) {
      if (group < p.groups) {
        FCNTAG_NO_UNROLL for (int other = windows_per_group; other < 8; other *= 2) {  // slots of the same window
          FCNTAG_UNROLL for (int i = 0; i < kLaneChannels; ++i) {
            best[i] = fmaxf(best[i], dev::shuffle_xor(best[i], other * 4));
          }
        }
        if (slot < windows_per_group) {
          const int window = (first_group + group) * windows_per_group + slot;
          float* row = maxima + window * (kTileN + kStagePad) + warp_n * kWarpChannels;
          FCNTAG_UNROLL for (int i = 0; i < kLaneChannels; i += 2) {
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

template <int kTileN, int kThreads>
FCNTAG_DEVICE void write_outputs(const ConvParams& p, int image, int y, int x, int channel, int images,
                                 const float* maxima, int thread) {
  const int windows = p.tile_n * p.tile_h * p.tile_w;
  for (int i = thread; i < windows * (kTileN / 2); i += kThreads) {
    const int window = i / (kTileN / 2), c = i % (kTileN / 2) * 2, n = channel + c;
    const int at_image = image + window / (p.tile_h * p.tile_w);
    const int at_y = y + window / p.tile_w % p.tile_h, at_x = x + window % p.tile_w;
    if (at_image >= images || at_y >= p.out_h || at_x >= p.out_w || n >= p.out_stride) continue;
    const float* raw = maxima + window * (kTileN + kStagePad) + c;
    // Channels that only fill up a pixel are zero: the next block multiplies them by zero, and must not find a NaN.
    const float a = n < p.out_channels ? finish(raw[0], p.epilogue, p.n_padded, n, p.activation) : 0.0f;
    const float b = n + 1 < p.out_channels ? finish(raw[1], p.epilogue, p.n_padded, n + 1, p.activation) : 0.0f;
    const int64_t pixel = (static_cast<int64_t>(at_image) * p.out_h + at_y) * p.out_w + at_x;
    store_pair(p.y, pixel * p.out_stride + n, a, b, p.storage);
  }
}

}  // namespace cuda
}  // namespace fcntag
