// conv_block on a CPU: direct convolution, fused with pooling. Compiled once per instruction set (FCNTAG_ISA).
//   x [C/16][H+2][W+2][16], w [K/kb][C/16][taps][16][kb] -> y [K/16][H'][W'][16]
//
// Plan: a task owns a strip of pooled rows and kb output channels. It cuts the conv rows that the strip's windows
// cover into tiles of a few pixels whose sums fit the registers (12 pixels x 2 vectors on AVX-512, 6 x 2 on AVX2),
// and runs over the input channels in chunks of 64: a chunk's weights (74 KB at kb = 32) stay in the level-2 cache
// while all tiles use them. Sums of a chunk are added to the strip's scratch, which also keeps the summation error
// at that of 64 channels plus C / 64 additions. Then bias, activation and affine run once per pooled value: they
// are monotone, so they commute with the maximum.
//
// Determinism: each output is the same chain of fused multiply-adds (chunk, channel block, tap, channel) whatever the
// tile shape, thread or batch.
#include <utility>

#include "cpu/conv_block.h"
#include "cpu/kernels/epilogue.h"
#include "cpu/kernels/simd.h"

namespace fcntag {
namespace {

// 12 x 2 sums and 2 weights of 32 registers (13 would spill), or 6 x 2 sums, 2 weights and a broadcast of 16.
constexpr int kTilePixels = kRegisters == 32 ? 12 : 6;
constexpr int kTileVecs = 2;
constexpr int kBlock = kTileVecs * kLanes;  // output channels of a task
constexpr int kChunkBlocks = 4;             // 64 input channels

// Sums of kRows x kCols pixels over `c_blocks` channel blocks and kernel rows [ky0, ky1), added to (or stored in)
// scratch.
template <int kKernel, int kRows, int kCols>
void conv_tile(const float* x, int64_t x_block, int64_t x_row, const float* weights, int c_blocks, int ky0, int ky1,
               float* sums, int64_t sums_row, bool add) {
  Vec acc[kRows][kCols][kTileVecs];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 16
    for (int p = 0; p < kCols; ++p) {
#pragma GCC unroll 2
      for (int v = 0; v < kTileVecs; ++v) acc[r][p][v] = Vec{};
    }
  }
  for (int cb = 0; cb < c_blocks; ++cb) {
    const float* w = weights + static_cast<int64_t>(cb * kKernel + ky0) * kKernel * kChannelBlock * kBlock;
    for (int ky = ky0; ky < ky1; ++ky) {
      const float* row = x + cb * x_block + ky * x_row;
      for (int kx = 0; kx < kKernel; ++kx, row += kChannelBlock, w += kChannelBlock * kBlock) {
        for (int c4 = 0; c4 < kChannelBlock; c4 += 4) {
#pragma GCC unroll 4
          for (int c = 0; c < 4; ++c) {
            const Vec w0 = load(w + (c4 + c) * kBlock);
            const Vec w1 = load(w + (c4 + c) * kBlock + kLanes);
#pragma GCC unroll 16
            for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 16
              for (int p = 0; p < kCols; ++p) {
                const Vec a = splat(row[r * x_row + p * kChannelBlock + c4 + c]);
                acc[r][p][0] = fma(a, w0, acc[r][p][0]);
                acc[r][p][1] = fma(a, w1, acc[r][p][1]);
              }
            }
          }
        }
      }
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 16
    for (int p = 0; p < kCols; ++p) {
#pragma GCC unroll 2
      for (int v = 0; v < kTileVecs; ++v) {
        float* s = sums + r * sums_row + p * kBlock + v * kLanes;
        store(s, add ? load(s) + acc[r][p][v] : acc[r][p][v]);
      }
    }
  }
}

using TileFn = void (*)(const float*, int64_t, int64_t, const float*, int, int, int, float*, int64_t, bool);

// The tiles of `kRows` rows, by columns - 1.
template <int kKernel, int kRows, typename Columns>
struct TilesOf;
template <int kKernel, int kRows, std::size_t... kColumns>
struct TilesOf<kKernel, kRows, std::index_sequence<kColumns...>> {
  static constexpr TileFn kOf[] = {conv_tile<kKernel, kRows, kColumns + 1>...};
};

// Built: every shape of up to 3 rows and kTilePixels pixels.
template <int kKernel>
TileFn tile(int rows, int cols) {
  if (rows == 1) return TilesOf<kKernel, 1, std::make_index_sequence<kTilePixels>>::kOf[cols - 1];
  if (rows == 2) return TilesOf<kKernel, 2, std::make_index_sequence<kTilePixels / 2>>::kOf[cols - 1];
  return TilesOf<kKernel, 3, std::make_index_sequence<kTilePixels / 3>>::kOf[cols - 1];
}

// A tile of a map that is little more than its own border: taps that meet only the zeros around the map are left out at
// compile time, 44 of 144 on a 4 x 4 map. Takes 16 channels at a time, so that all tiles of the map use their weights
// (18 KB) from the level-1 cache and these are read from memory once; the sums wait in scratch in between.
constexpr int kSmallRows = kTilePixels >= 8 ? 2 : 1;
constexpr int kSmallCols = 4;

enum : int { kTop = 1, kBottom = 2, kLeft = 4, kRight = 8 };  // edges of the map that the tile touches

template <int kEdges>
void conv_small_tile(const float* x, int64_t x_row, const float* w, float* sums, int64_t sums_row, bool add,
                     int64_t prefetch) {
  Vec acc[kSmallRows][kSmallCols][kTileVecs];
#pragma GCC unroll 2
  for (int r = 0; r < kSmallRows; ++r) {
#pragma GCC unroll 4
    for (int p = 0; p < kSmallCols; ++p) {
#pragma GCC unroll 2
      for (int v = 0; v < kTileVecs; ++v) {
        acc[r][p][v] = add ? load(sums + r * sums_row + p * kBlock + v * kLanes) : Vec{};
      }
    }
  }
#pragma GCC unroll 3
  for (int ky = 0; ky < 3; ++ky) {
#pragma GCC unroll 3
    for (int kx = 0; kx < 3; ++kx) {
      const float* tap = w + (ky * 3 + kx) * kChannelBlock * kBlock;
      for (int c = 0; c < kChannelBlock; ++c) {
        const Vec w0 = load(tap + c * kBlock), w1 = load(tap + c * kBlock + kLanes);
        __builtin_prefetch(tap + c * kBlock + prefetch, 0, 2);
#pragma GCC unroll 2
        for (int r = 0; r < kSmallRows; ++r) {
#pragma GCC unroll 4
          for (int p = 0; p < kSmallCols; ++p) {
            if ((kEdges & kTop) && r == 0 && ky == 0) continue;
            if ((kEdges & kBottom) && r == kSmallRows - 1 && ky == 2) continue;
            if ((kEdges & kLeft) && p == 0 && kx == 0) continue;
            if ((kEdges & kRight) && p == kSmallCols - 1 && kx == 2) continue;
            const Vec a = splat(x[(r + ky) * x_row + (p + kx) * kChannelBlock + c]);
            acc[r][p][0] = fma(a, w0, acc[r][p][0]);
            acc[r][p][1] = fma(a, w1, acc[r][p][1]);
          }
        }
      }
    }
  }
#pragma GCC unroll 2
  for (int r = 0; r < kSmallRows; ++r) {
#pragma GCC unroll 4
    for (int p = 0; p < kSmallCols; ++p) {
#pragma GCC unroll 2
      for (int v = 0; v < kTileVecs; ++v) store(sums + r * sums_row + p * kBlock + v * kLanes, acc[r][p][v]);
    }
  }
}

using SmallTileFn = void (*)(const float*, int64_t, const float*, float*, int64_t, bool, int64_t);
template <typename Edges>
struct SmallTiles;
template <std::size_t... kEdges>
struct SmallTiles<std::index_sequence<kEdges...>> {
  static constexpr SmallTileFn kOf[] = {conv_small_tile<kEdges>...};
};
using AllSmallTiles = SmallTiles<std::make_index_sequence<16>>;

// Sums of `rows` x `cols` pixels from (y0, x0), in the same order of additions as conv_tile's: the sums of every 64
// channels are a chain of their own.
void conv_small(const ConvBlockTask& t, int rows, int cols, int y0, int x0, const float* weights, float* sums) {
  const int c_blocks = static_cast<int>(t.in.blocks());
  constexpr int64_t kSlab = int64_t{9} * kChannelBlock * kBlock;
  const int64_t sums_row = static_cast<int64_t>(cols) * kBlock;
  float* chunk = c_blocks > kChunkBlocks ? sums + rows * sums_row : sums;  // sums of 64 channels
  const int tiles = rows / kSmallRows * (cols / kSmallCols);
  for (int cb = 0; cb < c_blocks; ++cb) {
    int tile = 0;
    for (int r = 0; r < rows; r += kSmallRows) {
      for (int c = 0; c < cols; c += kSmallCols) {
        const int edges = (y0 + r == 0 ? kTop : 0) | (y0 + r + kSmallRows == t.in.height ? kBottom : 0) |
                          (x0 + c == 0 ? kLeft : 0) | (x0 + c + kSmallCols == t.in.width ? kRight : 0);
        const float* x =
            t.x + cb * t.in.block() + (y0 + r - 1) * t.in.row() + static_cast<int64_t>(x0 + c - 1) * kChannelBlock;
        // Two of the tiles fetch the next slab, a vector of every row each (there is one slab more behind the last).
        const int64_t prefetch = tile == 0 ? kSlab : tile == tiles / 2 ? kSlab + kLanes : 0;
        ++tile;
        AllSmallTiles::kOf[edges](x, t.in.row(), weights + cb * kSlab, chunk + r * sums_row + c * kBlock, sums_row,
                                  cb % kChunkBlocks != 0, prefetch);
      }
    }
    if (chunk == sums || ((cb + 1) % kChunkBlocks != 0 && cb + 1 < c_blocks)) continue;
    for (int64_t i = 0; i < rows * sums_row; i += kLanes) {
      store(sums + i, cb < kChunkBlocks ? load(chunk + i) : load(sums + i) + load(chunk + i));
    }
  }
}

// The pooled values of windows [oy0, oy1) x [ox0, ox1), whose sums are in scratch [rows][columns][kb].
template <Activation kActivation>
void pool_and_store(const ConvBlockTask& t, const float* sums, int64_t sums_row, int kb, int oy0, int oy1, int ox0,
                    int ox1) {
  const PackedConvBlock& w = *t.weights;
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

void finish(const ConvBlockTask& t, const float* sums, int64_t sums_row, int kb, int oy0, int oy1, int ox0, int ox1) {
  with_activation(t.weights->activation, [&](auto activation) {
    pool_and_store<decltype(activation)::kOf>(t, sums, sums_row, kb, oy0, oy1, ox0, ox1);
  });
}

template <int kKernel>
void conv_impl(const ConvBlockTask& t) {
  const PackedConvBlock& w = *t.weights;
  constexpr int kTaps = kKernel * kKernel;
  const int c_blocks = static_cast<int>(t.in.blocks());
  const int64_t slab = static_cast<int64_t>(kTaps) * kChannelBlock * kBlock;  // one channel block's weights
  const float* weights = w.weight.data() + t.k_block * c_blocks * slab;
  const int rows = (t.row_end - t.row_begin - 1) * w.stride_h + w.pool_h;
  const int y0 = t.row_begin * w.stride_h;
  const int64_t halo = kKernel / 2;
  for (int ox0 = 0; ox0 < t.out.width; ox0 += t.chunk_cols) {
    const int ox1 = ox0 + t.chunk_cols < t.out.width ? ox0 + t.chunk_cols : t.out.width;
    const int cols = (ox1 - ox0 - 1) * w.stride_w + w.pool_w;
    const int x0 = ox0 * w.stride_w;
    const int64_t sums_row = static_cast<int64_t>(cols) * kBlock;
    if (kKernel == 3 && rows * cols <= kSmallMap && rows % kSmallRows == 0 && cols % kSmallCols == 0) {
      conv_small(t, rows, cols, y0, x0, weights, t.scratch);
      finish(t, t.scratch, sums_row, kBlock, t.row_begin, t.row_end, ox0, ox1);
      continue;
    }
    // Narrow maps take several rows per tile, so that a weight that is loaded serves enough pixels. Low maps take one:
    // then the kernel row that meets only the zero border is skipped, a sixth of a map of four rows.
    const bool low = kKernel == 3 && t.in.height <= 4 && cols >= 4;
    const int tile_rows = low                                    ? 1
                          : cols * 3 <= kTilePixels && rows >= 3 ? 3
                          : cols * 2 <= kTilePixels && rows >= 2 ? 2
                                                                 : 1;
    const int col_tiles = (cols * tile_rows + kTilePixels - 1) / kTilePixels;
    for (int cb = 0; cb < c_blocks; cb += kChunkBlocks) {
      const int chunk = c_blocks - cb < kChunkBlocks ? c_blocks - cb : kChunkBlocks;
      for (int r = 0; r < rows; r += tile_rows) {
        const int nr = rows - r < tile_rows ? rows - r : tile_rows;
        const int top = y0 + r, bottom = top + nr - 1;  // the tile's rows in the map
        const int ky0 = kKernel == 3 && bottom == 0 ? 1 : 0;
        const int ky1 = kKernel == 3 && top == t.in.height - 1 ? 2 : kKernel;
        const float* x_row = t.x + cb * t.in.block() + (y0 + r - halo) * t.in.row();
        for (int g = 0; g < col_tiles; ++g) {
          const int c0 = cols * g / col_tiles, c1 = cols * (g + 1) / col_tiles;
          tile<kKernel>(nr, c1 - c0)(x_row + (x0 + c0 - halo) * kChannelBlock, t.in.block(), t.in.row(),
                                     weights + cb * slab, chunk, ky0, ky1, t.scratch + r * sums_row + c0 * kBlock,
                                     sums_row, cb > 0);
        }
      }
    }
    finish(t, t.scratch, sums_row, kBlock, t.row_begin, t.row_end, ox0, ox1);
  }
}

void conv(const ConvBlockTask& t) { t.weights->kernel == 3 ? conv_impl<3>(t) : conv_impl<1>(t); }

// The first block, any pool: one input channel, 9 multiply-adds an output. The weights stay in registers; a tile is
// kFirstPixels pixels of a row for one vector of channels, and every input value is broadcast once for the three taps
// it meets.
constexpr int kFirstPixels = kRegisters == 32 ? 8 : 4;

template <int kKernel>
void conv_first_impl(const ConvBlockTask& t) {
  const PackedConvBlock& w = *t.weights;
  constexpr int kHalo = kKernel / 2;
  Vec taps[kKernel * kKernel];
#pragma GCC unroll 9
  for (int i = 0; i < kKernel * kKernel; ++i) {
    taps[i] = load(w.weight.data() + (t.k_block * kKernel * kKernel + i) * kLanes);
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

// The same for the pools that models have: the window's maximum is taken in registers as its pixels are done, and
// nothing waits in scratch. Pixels between windows (stride > window) are not computed.
template <int kPoolW, int kStrideW>
struct FirstWindows {
  // Windows of a tile: as many sums as the multiply-adds in flight need, next to nine taps and the windows' maxima.
  static constexpr int kPixels = kFirstPixels == 8 && kPoolW > 1 ? 12 : kFirstPixels;
  static constexpr int kWindows = kPixels / kPoolW > 0 ? kPixels / kPoolW : 1;
  static constexpr int kSpan = (kWindows - 1) * kStrideW + kPoolW + 2;  // inputs of a row that the tile meets

  // best[v] = max(best[v], the sums of one row in window v); x: top left input of the tile.
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
  const PackedConvBlock& w = *t.weights;
  Vec taps[9];
#pragma GCC unroll 9
  for (int i = 0; i < 9; ++i) taps[i] = load(w.weight.data() + (t.k_block * 9 + i) * kLanes);
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
  // Windows share rows: the maxima of every row wait in scratch, [rows][columns][lanes].
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

template <Activation kActivation>
bool conv_first_by_window(const ConvBlockTask& t) {
  const PackedConvBlock& w = *t.weights;
  const int pool = w.pool_w, stride = w.stride_w;
  if (w.kernel != 3) return false;
  if (pool == 1 && stride == 1) return conv_first_windows<1, 1, kActivation>(t), true;
  if (pool == 1 && stride == 2) return conv_first_windows<1, 2, kActivation>(t), true;
  if (pool == 2 && stride == 2) return conv_first_windows<2, 2, kActivation>(t), true;
  if (pool == 4 && stride == 4) return conv_first_windows<4, 4, kActivation>(t), true;
  if (pool == 5 && stride == 5) return conv_first_windows<5, 5, kActivation>(t), true;
  return false;
}

void conv_first(const ConvBlockTask& t) {
  const Activation activation = t.weights->activation;
  if (activation == Activation::kRelu  ? conv_first_by_window<Activation::kRelu>(t)
      : activation == Activation::kElu ? conv_first_by_window<Activation::kElu>(t)
                                       : conv_first_by_window<Activation::kNone>(t)) {
    return;
  }
  t.weights->kernel == 3 ? conv_first_impl<3>(t) : conv_first_impl<1>(t);
}

}  // namespace

#define FCNTAG_TABLE_(isa) conv_block_kernels_##isa
#define FCNTAG_TABLE(isa) FCNTAG_TABLE_(isa)
extern const ConvBlockKernels FCNTAG_TABLE(FCNTAG_ISA);
const ConvBlockKernels FCNTAG_TABLE(FCNTAG_ISA) = {kLanes, kBlock, conv_first, conv};

}  // namespace fcntag
