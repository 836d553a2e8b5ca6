// A block of a hidden dense layer's output features. The sums of a few images and all features of the block are kept in
// registers while the inputs of a chunk go by. This file is compiled once per instruction set (FCNTAG_ISA).
#include "cpu/dense.h"
#include "cpu/kernels/epilogue.h"
#include "cpu/kernels/simd.h"

namespace fcntag {
namespace {

constexpr int kVectors = kRegisters == 32 ? 4 : 2;  // of output features
constexpr int kImages = 6;                          // whose sums stay in registers, with the weights of one input
constexpr int kBlock = kVectors * kLanes;

// Adds the products of inputs [begin, end) to the sums of images [0, count) in y; the first chunk begins them, and the
// last one finishes them.
template <int kCount, Activation kActivation>
FCNTAG_INLINE void add_chunk(const DenseTask& t, const float* x, float* y, int begin, int end) {
  Vec sums[kCount][kVectors] = {};
  for (int i = begin; i < end; ++i) {
    const float* weight = t.weight + static_cast<int64_t>(i) * kBlock;
    Vec w[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) w[v] = load(weight + v * kLanes);
#pragma GCC unroll 6
    for (int image = 0; image < kCount; ++image) {
      const Vec value = splat(x[image * t.x_row + i]);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sums[image][v] = fma(value, w[v], sums[image][v]);
    }
  }
  const bool last = end == t.in_features;
#pragma GCC unroll 6
  for (int image = 0; image < kCount; ++image) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      float* to = y + image * t.y_row + v * kLanes;
      Vec sum = begin == 0 ? sums[image][v] : load(to) + sums[image][v];
      if (last) sum = activate<kActivation>(sum + load(t.bias + v * kLanes));
      store(to, sum);
    }
  }
}

template <Activation kActivation>
void run_block(const DenseTask& t) {
  for (int begin = 0; begin < t.in_features; begin += kDenseChunk) {
    const int end = t.in_features - begin < kDenseChunk ? t.in_features : begin + kDenseChunk;
    int image = 0;
    for (; image + kImages <= t.images; image += kImages) {
      add_chunk<kImages, kActivation>(t, t.x + image * t.x_row, t.y + image * t.y_row, begin, end);
    }
    const float* x = t.x + image * t.x_row;
    float* y = t.y + image * t.y_row;
    switch (t.images - image) {
      case 1:
        add_chunk<1, kActivation>(t, x, y, begin, end);
        break;
      case 2:
        add_chunk<2, kActivation>(t, x, y, begin, end);
        break;
      case 3:
        add_chunk<3, kActivation>(t, x, y, begin, end);
        break;
      case 4:
        add_chunk<4, kActivation>(t, x, y, begin, end);
        break;
      case 5:
        add_chunk<5, kActivation>(t, x, y, begin, end);
        break;
      default:
        break;
    }
  }
}

void run(const DenseTask& t) {
  with_activation(t.activation, [&](auto activation) { run_block<decltype(activation)::kOf>(t); });
}

}  // namespace

extern const DenseKernels FCNTAG_TABLE(dense_kernels_);
const DenseKernels FCNTAG_TABLE(dense_kernels_) = {kBlock, run};

}  // namespace fcntag
