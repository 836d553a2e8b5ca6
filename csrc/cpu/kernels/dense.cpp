// Dense layers. A hidden one is computed in blocks of output features: the sums of a few images and all features of the
// block are kept in registers while the inputs of a chunk go by. This file is compiled once per instruction set
// (FCNTAG_ISA).
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

// A sum of the last layer is eight chains, which are added in their order, and what fills no eight. The product of two
// floats is exact in double, so that every instruction set gives the same bits, whether it has an fma or not.
constexpr int kChains = 8;
constexpr int kParts = kChains / kLanes64;
constexpr int kTags = 2;
constexpr int kTagImages =
    kRegisters / (4 * kParts) > 0 ? kRegisters / (4 * kParts) : 1;  // half of the registers are sums

FCNTAG_INLINE Vec64 load_double(const float* p) {
  typedef float Half __attribute__((vector_size(kLanes64 * 4)));
  Half v;
  std::memcpy(&v, p, sizeof v);
  return __builtin_convertvector(v, Vec64);
}

template <int kTagCount, int kCount>
FCNTAG_INLINE void dot_products(const LogitsTask& t, int tag, int image) {
  const float* weight = t.weight + static_cast<int64_t>(tag) * t.in_features;
  const float* x = t.x + image * t.x_row;
  Vec64 sums[kTagCount][kCount][kParts] = {};
  int i = 0;
  for (; i + kChains <= t.in_features; i += kChains) {
#pragma GCC unroll 4
    for (int part = 0; part < kParts; ++part) {
      const int at = i + part * kLanes64;
      Vec64 w[kTagCount];
#pragma GCC unroll 2
      for (int a = 0; a < kTagCount; ++a) w[a] = load_double(weight + a * static_cast<int64_t>(t.in_features) + at);
#pragma GCC unroll 4
      for (int b = 0; b < kCount; ++b) {
        const Vec64 value = load_double(x + b * t.x_row + at);
#pragma GCC unroll 2
        for (int a = 0; a < kTagCount; ++a) sums[a][b][part] = fma64(w[a], value, sums[a][b][part]);
      }
    }
  }
  for (int a = 0; a < kTagCount; ++a) {
    for (int b = 0; b < kCount; ++b) {
      double sum = t.bias[tag + a];
      for (int chain = 0; chain < kChains; ++chain) sum += sums[a][b][chain / kLanes64][chain % kLanes64];
      for (int rest = i; rest < t.in_features; ++rest) {
        sum += static_cast<double>(weight[a * static_cast<int64_t>(t.in_features) + rest]) * x[b * t.x_row + rest];
      }
      t.y[static_cast<int64_t>(image + b) * t.n_tags + tag + a] = sum;
    }
  }
}

void logits(const LogitsTask& t) {
  for (int tag = t.first; tag < t.last; tag += kTags) {
    const bool alone = tag + 1 == t.last;
    int image = 0;
    for (; image + kTagImages <= t.images; image += kTagImages) {
      alone ? dot_products<1, kTagImages>(t, tag, image) : dot_products<kTags, kTagImages>(t, tag, image);
    }
    for (; image < t.images; ++image) {
      alone ? dot_products<1, 1>(t, tag, image) : dot_products<kTags, 1>(t, tag, image);
    }
  }
}

void run(const DenseTask& t) {
  with_activation(t.activation, [&](auto activation) { run_block<decltype(activation)::kOf>(t); });
}

}  // namespace

extern const DenseKernels FCNTAG_TABLE(dense_kernels_);
const DenseKernels FCNTAG_TABLE(dense_kernels_) = {kBlock, run, logits};

}  // namespace fcntag
