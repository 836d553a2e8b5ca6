// The end of every kernel: pool windows are reduced to their maximum, then bias, activation and affine run once a
// window.
//
// Include it only in csrc/cpu/kernels/*.cpp: as in simd.h, everything here has internal linkage.
#pragma once

#include "cpu/conv_block.h"
#include "cpu/kernels/simd.h"

namespace fcntag {
namespace {

template <Activation kActivation>
FCNTAG_INLINE Vec activate(Vec v) {
  if constexpr (kActivation == Activation::kRelu) return relu(v);
  if constexpr (kActivation == Activation::kElu) return elu(v);
  return v;
}

// y = scale * act(sign * maximum + bias) + shift of the vector of channels that begins with channel k.
template <Activation kActivation>
struct Epilogue {
  Vec sign, bias, scale, shift;
  bool affine;

  FCNTAG_INLINE Epilogue(const PackedConvBlock& block, int k)
      : sign(load(block.sign.data() + k)),
        bias(load(block.bias.data() + k)),
        scale(load(block.scale.data() + k)),
        shift(load(block.shift.data() + k)),
        affine(block.affine) {}

  FCNTAG_INLINE Vec operator()(Vec maximum) const {
    const Vec out = activate<kActivation>(fma(sign, maximum, bias));
    return affine ? fma(scale, out, shift) : out;
  }
};

// The maximum of a window whose rows are `row` floats apart and whose columns `column`.
FCNTAG_INLINE Vec window_maximum(const float* s, int64_t row, int64_t column, int pool_h, int pool_w) {
  Vec best = load(s);
  for (int i = 0; i < pool_h; ++i) {
    for (int j = 0; j < pool_w; ++j) best = max(best, load(s + i * row + j * column));
  }
  return best;
}

// The place of pixel (0, 0) of the vector of channels that begins with channel k, in an image at `origin`.
FCNTAG_INLINE float* channel_origin(float* origin, const MapLayout& map, int k) {
  return origin + k / kChannelBlock * map.block() + k % kChannelBlock;
}

template <Activation kActivation>
struct Activated {
  static constexpr Activation kOf = kActivation;
};

// Calls work(Activated<...>{}) for a block's activation, so that the inner loops know it at compile time.
template <typename Work>
FCNTAG_INLINE void with_activation(Activation activation, const Work& work) {
  switch (activation) {
    case Activation::kRelu:
      return work(Activated<Activation::kRelu>{});
    case Activation::kElu:
      return work(Activated<Activation::kElu>{});
    default:
      return work(Activated<Activation::kNone>{});
  }
}

// The pooled values of windows [oy0, oy1) x [ox0, ox1), whose sums are in scratch [rows][columns][kb].
template <Activation kActivation>
void pool_and_store(const ConvBlockTask& t, const float* sums, int64_t sums_row, int kb, int oy0, int oy1, int ox0,
                    int ox1) {
  const PackedConvBlock& w = *t.block;
  for (int v = 0; v < kb; v += kLanes) {
    const int k = t.k_block * kb + v;  // first channel of this vector
    if (k >= t.out.blocks() * kChannelBlock) break;
    const Epilogue<kActivation> epilogue(w, k);
    float* y = channel_origin(t.y, t.out, k);
    for (int oy = oy0; oy < oy1; ++oy) {
      for (int ox = ox0; ox < ox1; ++ox) {
        const float* s =
            sums + (oy - oy0) * w.stride_h * sums_row + static_cast<int64_t>(ox - ox0) * w.stride_w * kb + v;
        store(y + oy * t.out.row() + static_cast<int64_t>(ox) * kChannelBlock,
              epilogue(window_maximum(s, sums_row, kb, w.pool_h, w.pool_w)));
      }
    }
  }
}

inline void finish(const ConvBlockTask& t, const float* sums, int64_t sums_row, int kb, int oy0, int oy1, int ox0,
                   int ox1) {
  with_activation(t.block->activation, [&](auto activation) {
    pool_and_store<decltype(activation)::kOf>(t, sums, sums_row, kb, oy0, oy1, ox0, ox1);
  });
}

}  // namespace
}  // namespace fcntag
