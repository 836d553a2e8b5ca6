// The first conv_block on a CPU: one input channel, 9 multiply-adds an output. This file is compiled once per
// instruction set (FCNTAG_ISA).
//   x [H+2][W+2], w [K/lanes][taps][lanes] -> y [K/16][H'][W'][16]
//
// A task owns a strip of pooled rows and one vector of output channels, whose weights stay in registers. A tile is a
// few pixels of a row. Every input value is broadcast once for the three taps that it meets.
#include <utility>

#include "cpu/conv_block.h"
#include "cpu/kernels/epilogue.h"
#include "cpu/kernels/simd.h"

namespace fcntag {
namespace {

// The pool windows that have code of their own, in 3x3 blocks, by their width and step to the right. Height and step
// down are loops and may be any. Another window takes the general code. To build one more, add it here.
struct Window {
  int pool_w, stride_w;
};
constexpr Window kBuilt[] = {{1, 1}, {1, 2}, {2, 2}, {4, 4}, {5, 5}};
constexpr std::size_t kBuiltWindows = sizeof kBuilt / sizeof kBuilt[0];

// Pixels of a tile. Fewer sums would leave multiply-adds waiting for each other; more would not fit the registers next
// to nine taps.
constexpr int kFirstPixels = kRegisters == 32 ? 8 : 4;

// The general code: raw sums wait in scratch for their window.
template <int kKernel>
void conv_first_any(const ConvBlockTask& t) {
  const PackedConvBlock& w = *t.block;
  constexpr int kHalo = kKernel / 2;
  Vec taps[kKernel * kKernel];
#pragma GCC unroll 9
  for (int i = 0; i < kKernel * kKernel; ++i) {
    taps[i] = load(t.weights + (t.k_block * kKernel * kKernel + i) * kLanes);
  }
  const int rows = (t.row_end - t.row_begin - 1) * w.stride_h + w.pool_h;
  const int y0 = t.row_begin * w.stride_h;
  for (int ox0 = 0; ox0 < t.out.width; ox0 += t.chunk_cols) {
    const int ox1 = ox0 + t.chunk_cols < t.out.width ? ox0 + t.chunk_cols : t.out.width;
    const int cols = (ox1 - ox0 - 1) * w.stride_w + w.pool_w;
    const int tiles = (cols + kFirstPixels - 1) / kFirstPixels;
    const int64_t sums_row = static_cast<int64_t>(tiles) * kFirstPixels * kLanes;
    for (int r = 0; r < rows; ++r) {
      const float* row = t.x + (y0 + r - kHalo) * t.in.row() + ox0 * w.stride_w - kHalo;
      for (int g = 0; g < tiles; ++g) {
        Vec acc[kFirstPixels];
#pragma GCC unroll 8
        for (int p = 0; p < kFirstPixels; ++p) acc[p] = Vec{};
#pragma GCC unroll 3
        for (int ky = 0; ky < kKernel; ++ky) {
#pragma GCC unroll 10
          for (int i = 0; i < kFirstPixels + kKernel - 1; ++i) {
            const Vec a = splat(row[ky * t.in.row() + g * kFirstPixels + i]);
#pragma GCC unroll 3
            for (int kx = 0; kx < kKernel; ++kx) {
              const int p = i - kx;
              if (p >= 0 && p < kFirstPixels) acc[p] = fma(a, taps[ky * kKernel + kx], acc[p]);
            }
          }
        }
        float* s = t.scratch + r * sums_row + static_cast<int64_t>(g) * kFirstPixels * kLanes;
#pragma GCC unroll 8
        for (int p = 0; p < kFirstPixels; ++p) store(s + p * kLanes, acc[p]);
      }
    }
    finish(t, t.scratch, sums_row, kLanes, t.row_begin, t.row_end, ox0, ox1);
  }
}

// The code of a built window: its maximum is taken in registers as its pixels are done, and nothing waits in scratch.
// Pixels between windows (stride > window) are not computed.
template <int kPoolW, int kStrideW>
struct FirstWindows {
  // A tile is as many windows as give enough sums, but still fit the registers next to nine taps and their maxima.
  static constexpr int kPixels = kFirstPixels == 8 && kPoolW > 1 ? 12 : kFirstPixels;
  static constexpr int kWindows = kPixels / kPoolW > 0 ? kPixels / kPoolW : 1;
  static constexpr int kSpan = (kWindows - 1) * kStrideW + kPoolW + 2;  // inputs of a row that the tile reads

  // best[v] = max(best[v], the sums of one row in window v). x is the top left input of the tile.
  FCNTAG_INLINE static void row(const float* x, int64_t x_row, const Vec* taps, Vec* best) {
    Vec acc[kWindows * kPoolW];
#pragma GCC unroll 16
    for (int p = 0; p < kWindows * kPoolW; ++p) acc[p] = Vec{};
#pragma GCC unroll 3
    for (int ky = 0; ky < 3; ++ky) {
#pragma GCC unroll 20
      for (int i = 0; i < kSpan; ++i) {
        const Vec a = splat(x[ky * x_row + i]);
#pragma GCC unroll 3
        for (int kx = 0; kx < 3; ++kx) {
          const int at = i - kx, window = at / kStrideW, pixel = at % kStrideW;
          if (at >= 0 && window < kWindows && pixel < kPoolW) {
            acc[window * kPoolW + pixel] = fma(a, taps[ky * 3 + kx], acc[window * kPoolW + pixel]);
          }
        }
      }
    }
#pragma GCC unroll 8
    for (int v = 0; v < kWindows; ++v) {
      Vec m = acc[v * kPoolW];
#pragma GCC unroll 8
      for (int p = 1; p < kPoolW; ++p) m = max(m, acc[v * kPoolW + p]);
      best[v] = max(best[v], m);
    }
  }

  FCNTAG_INLINE static void clear(Vec* best) {
#pragma GCC unroll 8
    for (int v = 0; v < kWindows; ++v) best[v] = splat(-__builtin_inff());
  }
};

template <int kPoolW, int kStrideW, Activation kActivation>
void conv_first_windows(const ConvBlockTask& t) {
  using Windows = FirstWindows<kPoolW, kStrideW>;
  constexpr int kWindows = Windows::kWindows;
  const PackedConvBlock& w = *t.block;
  Vec taps[9];
#pragma GCC unroll 9
  for (int i = 0; i < 9; ++i) taps[i] = load(t.weights + (t.k_block * 9 + i) * kLanes);
  const int k = t.k_block * kLanes;
  const Epilogue<kActivation> epilogue(w, k);
  float* y = channel_origin(t.y, t.out, k);
  const auto put = [&](Vec best, int oy, int ox) {
    store(y + oy * t.out.row() + static_cast<int64_t>(ox) * kChannelBlock, epilogue(best));
  };
  const float* x = t.x - t.in.row() - 1;
  if (w.pool_h <= w.stride_h) {
    for (int oy = t.row_begin; oy < t.row_end; ++oy) {
      for (int ox = 0; ox < t.out.width; ox += kWindows) {
        Vec best[kWindows];
        Windows::clear(best);
        for (int r = 0; r < w.pool_h; ++r) {
          Windows::row(x + (oy * w.stride_h + r) * t.in.row() + ox * kStrideW, t.in.row(), taps, best);
        }
#pragma GCC unroll 8
        for (int v = 0; v < kWindows; ++v) {
          if (ox + v < t.out.width) put(best[v], oy, ox + v);
        }
      }
    }
    return;
  }
  // Windows share rows here. The maxima of every row wait in scratch, [rows][columns][lanes].
  const int y0 = t.row_begin * w.stride_h;
  const int rows = (t.row_end - t.row_begin - 1) * w.stride_h + w.pool_h;
  for (int ox0 = 0; ox0 < t.out.width; ox0 += t.chunk_cols) {
    const int cols = t.chunk_cols < t.out.width - ox0 ? t.chunk_cols : t.out.width - ox0;
    const int tiles = (cols + kWindows - 1) / kWindows;
    const int64_t row = static_cast<int64_t>(tiles) * kWindows * kLanes;
    for (int r = 0; r < rows; ++r) {
      for (int tile = 0; tile < tiles; ++tile) {
        Vec best[kWindows];
        Windows::clear(best);
        Windows::row(x + (y0 + r) * t.in.row() + (ox0 + tile * kWindows) * kStrideW, t.in.row(), taps, best);
#pragma GCC unroll 8
        for (int v = 0; v < kWindows; ++v) store(t.scratch + r * row + (tile * kWindows + v) * kLanes, best[v]);
      }
    }
    for (int oy = t.row_begin; oy < t.row_end; ++oy) {
      for (int c = 0; c < cols; ++c) {
        const float* s = t.scratch + (oy * w.stride_h - y0) * row + c * kLanes;
        Vec best = load(s);
        for (int r = 1; r < w.pool_h; ++r) best = max(best, load(s + r * row));
        put(best, oy, ox0 + c);
      }
    }
  }
}

template <Activation kActivation, typename Windows>
struct ConvFirstOf;
template <Activation kActivation, std::size_t... kIndex>
struct ConvFirstOf<kActivation, std::index_sequence<kIndex...>> {
  static constexpr ConvBlockKernel kOf[] = {
      conv_first_windows<kBuilt[kIndex].pool_w, kBuilt[kIndex].stride_w, kActivation>...};
};

// The place of a block's window in kBuilt, or -1.
int built(const ConvBlockShape& block) {
  for (std::size_t i = 0; block.kernel == 3 && i < kBuiltWindows; ++i) {
    if (block.pool_w == kBuilt[i].pool_w && block.stride_w == kBuilt[i].stride_w) return static_cast<int>(i);
  }
  return -1;
}

bool is_built(const ConvBlockShape& block) { return built(block) >= 0; }

void conv_first(const ConvBlockTask& t) {
  const int window = built(*t.block);
  if (window < 0) return t.block->kernel == 3 ? conv_first_any<3>(t) : conv_first_any<1>(t);
  with_activation(t.block->activation, [&](auto activation) {
    ConvFirstOf<decltype(activation)::kOf, std::make_index_sequence<kBuiltWindows>>::kOf[window](t);
  });
}

}  // namespace

extern const ConvFirstKernels FCNTAG_TABLE(conv_first_kernels_);
const ConvFirstKernels FCNTAG_TABLE(conv_first_kernels_) = {kLanes, conv_first, is_built};

}  // namespace fcntag
