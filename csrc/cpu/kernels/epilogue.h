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

// Where a vector of channels of pixel (0, 0) lies, in an image at `origin`.
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

}  // namespace
}  // namespace fcntag
