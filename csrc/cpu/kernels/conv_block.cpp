// conv_block on a CPU: direct convolution, fused with pooling. This file is compiled once per instruction set
// (FCNTAG_ISA). Every pool window takes the same code, so that there is no list of windows here.
//   x [C/16][H+2][W+2][16], w [K/kb][C/16][taps][16][kb] -> y [K/16][H'][W'][16]
//
// A task owns a strip of pooled rows and kb output channels. It cuts the conv rows that the strip's windows cover into
// tiles of a few pixels whose sums fit the registers: 12 pixels x 2 vectors on AVX-512, 6 x 2 on AVX2. It runs over the
// input channels in chunks of 64. A chunk's weights (74 KB at kb = 32) stay in the level-2 cache while all tiles use
// them. The sums of a chunk are added to the strip's scratch, which keeps the summation error at that of 64 channels
// and C / 64 additions. Then bias, activation and affine run once per pooled value. They are monotone, and therefore
// commute with the maximum.
//
// Results are deterministic: each output is the same chain of fused multiply-adds (chunk, channel block, tap, channel)
// for every tile shape, thread and batch.
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

// Adds the sums of kRows x kCols pixels over `c_blocks` channel blocks and kernel rows [ky0, ky1) to scratch, or stores
// them there.
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

// Every shape of up to 3 rows and kTilePixels pixels is built.
template <int kKernel>
TileFn tile(int rows, int cols) {
  if (rows == 1) return TilesOf<kKernel, 1, std::make_index_sequence<kTilePixels>>::kOf[cols - 1];
  if (rows == 2) return TilesOf<kKernel, 2, std::make_index_sequence<kTilePixels / 2>>::kOf[cols - 1];
  return TilesOf<kKernel, 3, std::make_index_sequence<kTilePixels / 3>>::kOf[cols - 1];
}

// Computes a tile of a map that is little more than its own border. Taps that meet only the zeros around the map are
// left out at compile time: 44 of 144 on a 4 x 4 map. It takes 16 channels at a time, so that all tiles of the map use
// their weights (18 KB) from the level-1 cache, and memory is read once. The sums wait in scratch in between.
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

// Computes the sums of `rows` x `cols` pixels from (y0, x0). They are added in the order of conv_tile: the sums of
// every 64 channels are a chain of their own.
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
        // Two of the tiles prefetch the next slab, one vector of every row each. Behind the last slab lies one more.
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

template <int kKernel>
void conv_impl(const ConvBlockTask& t) {
  const PackedConvBlock& w = *t.block;
  constexpr int kTaps = kKernel * kKernel;
  const int c_blocks = static_cast<int>(t.in.blocks());
  const int64_t slab = static_cast<int64_t>(kTaps) * kChannelBlock * kBlock;  // one channel block's weights
  const float* weights = t.weights + t.k_block * c_blocks * slab;
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
    // Narrow maps take several rows per tile, so that a weight that is loaded serves enough pixels. Low maps take one
    // row: the kernel row that meets only the zero border is skipped then, a sixth of a map of four rows.
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

void conv(const ConvBlockTask& t) { t.block->kernel == 3 ? conv_impl<3>(t) : conv_impl<1>(t); }

}  // namespace

extern const ConvBlockKernels FCNTAG_TABLE(conv_block_kernels_);
const ConvBlockKernels FCNTAG_TABLE(conv_block_kernels_) = {kBlock, conv};

}  // namespace fcntag
