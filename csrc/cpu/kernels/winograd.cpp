// winograd on a CPU. This file is compiled once per instruction set (FCNTAG_ISA), and once more for bfloat16
// (FCNTAG_BFLOAT16).
//   x [C/16][rows][cols][16] -> v [36][C/16][tiles][16] -> m [tiles][36][kb] -> y [K/16][H'][W'][16]
//
// A block of units is transformed into v, 16 channels of a tile at a time, all in registers. For each of the 36 points,
// a matrix product [tiles, C] x [C, kb] runs 12 tiles x 2 vectors in registers (6 x 2 on AVX2). The products of a unit
// are transformed back and pooled, and only the pooled values get bias, activation and affine.
#include <utility>

#include "cpu/winograd.h"
#include "cpu/kernels/epilogue.h"
#include "cpu/kernels/simd.h"

namespace fcntag {
namespace {

// The pool windows that have code of their own, which pools them in registers. Their sides divide a tile's. Another
// window takes the general code. To build one more, add it here.
struct Window {
  int pool_h, pool_w;
};
constexpr Window kBuilt[] = {{1, 1}, {1, 4}, {2, 2}, {2, 4}, {4, 4}};
constexpr std::size_t kBuiltWindows = sizeof kBuilt / sizeof kBuilt[0];

// Tiles of a product: the registers hold the sums of so many next to the operands.
constexpr int kTileRows = kRegisters == 32 ? 12 : 6;
constexpr int kVecs = 2;
constexpr int kBlock = kVecs * kLanes;
constexpr int kPoints = 36;
// Sums restart every 64 channels and are added in memory. That halves the rounding error of 256 channels and costs a
// few per cent of the time.
constexpr int kChunkBlocks = 4;
// A block of 16 channels takes so many slots of four bytes in v and in the weights: 16 floats, or 8 pairs of bfloat16.
// One instruction multiplies two such pairs and adds them to a float sum.
#if defined(FCNTAG_BFLOAT16)
constexpr int kSlots = kChannelBlock / 2;
FCNTAG_INLINE Vec multiply_add(Vec a, Vec b, Vec sum) {
  return (Vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
}
FCNTAG_INLINE void store_slots(float* p, Vec v) {
  const __m256bh half = _mm512_cvtneps_pbh((__m512)v);
  std::memcpy(p, &half, sizeof half);
}
#else
constexpr int kSlots = kChannelBlock;
FCNTAG_INLINE Vec multiply_add(Vec a, Vec b, Vec sum) { return fma(a, b, sum); }
FCNTAG_INLINE void store_slots(float* p, Vec v) { store(p, v); }
#endif

constexpr float kA = 0.70710678118654752440f, kB = 1.41421356237309504880f;  // a^2 = 1/2, b^2 = 2, (a b)^2 = 1
constexpr float kA3 = kA * 0.5f, kB3 = kB * 2.0f;

// One row of B^T x: six inputs to the six points.
FCNTAG_INLINE void input_row(Vec x0, Vec x1, Vec x2, Vec x3, Vec x4, Vec x5, Vec* o) {
  const Vec half5 = splat(-2.5f);  // -(a^2 + b^2)
  o[0] = fma(half5, x2, x4) + x0;
  const Vec e = fma(splat(-2.0f), x2, x4), d = fma(splat(-2.0f), x1, x3) * kA;
  o[1] = e + d;
  o[2] = e - d;
  const Vec f = fma(splat(-0.5f), x2, x4), g = fma(splat(-0.5f), x1, x3);
  o[3] = fma(splat(kB), g, f);
  o[4] = fma(splat(-kB), g, f);
  o[5] = fma(half5, x3, x5) + x1;
}

// One row of A^T m: six products to four outputs.
FCNTAG_INLINE void output_row(Vec m0, Vec m1, Vec m2, Vec m3, Vec m4, Vec m5, Vec* o) {
  const Vec p = m1 + m2, d = m1 - m2, q = m3 + m4, e = m3 - m4;
  o[0] = m0 + p + q;
  o[1] = fma(splat(kB), e, d * kA);
  o[2] = fma(splat(2.0f), q, p * 0.5f);
  o[3] = fma(splat(kB3), e, d * kA3) + m5;
}

// The place in the padded input where a tile of the block begins.
FCNTAG_INLINE const float* tile_source(const WinogradTask& t, int tile) {
  const WinogradPlan& p = *t.plan;
  const int unit = t.unit_begin + tile / p.unit_tiles(), inner = tile % p.unit_tiles();
  const int image = unit / p.units(), at = unit % p.units();
  const int64_t row = static_cast<int64_t>(at / p.grid_cols) * p.unit_rows + inner / p.unit_cols;
  const int64_t col = static_cast<int64_t>(at % p.grid_cols) * p.unit_cols + inner % p.unit_cols;
  return t.x + image * t.in.image() + (row * kWinogradTile - 1) * t.in.row() +
         (col * kWinogradTile - 1) * kChannelBlock;
}

void transform(const WinogradTask& t) {
  const int c_blocks = static_cast<int>(t.in.blocks());
  const int tiles = (t.unit_end - t.unit_begin) * t.plan->unit_tiles();
  const int64_t plane = static_cast<int64_t>(c_blocks) * tiles * kSlots;
  const int64_t row = t.in.row();
  int tile = t.item_begin / c_blocks, cb = t.item_begin % c_blocks;
  const float* source = tile_source(t, tile);
  for (int item = t.item_begin; item < t.item_end; ++item, ++cb) {
    if (cb == c_blocks) {
      cb = 0;
      source = tile_source(t, ++tile);
    }
    for (int v = 0; v < kChannelBlock; v += kLanes) {
      const float* s = source + cb * t.in.block() + v;
      Vec mid[6][6];
#pragma GCC unroll 6
      for (int x = 0; x < 6; ++x) {
        const float* c = s + x * kChannelBlock;
        Vec o[6];
        input_row(load(c), load(c + row), load(c + 2 * row), load(c + 3 * row), load(c + 4 * row), load(c + 5 * row),
                  o);
#pragma GCC unroll 6
        for (int i = 0; i < 6; ++i) mid[i][x] = o[i];
      }
      float* d = t.v + (static_cast<int64_t>(cb) * tiles + tile) * kSlots + v;
#pragma GCC unroll 6
      for (int i = 0; i < 6; ++i) {
        Vec o[6];
        input_row(mid[i][0], mid[i][1], mid[i][2], mid[i][3], mid[i][4], mid[i][5], o);
#pragma GCC unroll 6
        for (int j = 0; j < 6; ++j) store_slots(d + (i * 6 + j) * plane, o[j]);
      }
    }
  }
}

// Adds the products of four slots of kRows tiles: a [tiles][16], b [4][kb].
template <int kRows, int kVectors>
FCNTAG_INLINE void multiply_quad(const float* a, const float* b, Vec (*acc)[kVectors]) {
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {
    Vec w[kVectors];
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) w[v] = load(b + c * kBlock + v * kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const Vec s = splat(a[r * kSlots + c]);
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) acc[r][v] = multiply_add(s, w[v], acc[r][v]);
    }
  }
}

// Computes m [kRows tiles][kb] of one point over `quads` times four slots of channels, from a [..][tiles][16] and
// b [..][16][kb].
template <int kRows, int kVectors>
void product(const float* a, int64_t a_block, const float* b, int quads, float* m, int64_t m_row, const char* prefetch,
             int lines) {
  constexpr int kQuads = kSlots / 4;
  for (bool add = false; quads > 0; add = true) {
    Vec acc[kRows][kVectors];
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) acc[r][v] = Vec{};
    }
    for (int cb = 0; cb < kChunkBlocks && quads > 0; ++cb, quads -= kQuads, a += a_block) {
      for (int i = 0; i < lines; ++i, prefetch += 64) __builtin_prefetch(prefetch, 0, 2);
      const float* end = a + (quads < kQuads ? 4 * quads : kSlots);
      for (const float* p = a; p != end; p += 4, b += 4 * kBlock) multiply_quad<kRows, kVectors>(p, b, acc);
    }
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) {
        float* p = m + r * m_row + v * kLanes;
        store(p, add ? load(p) + acc[r][v] : acc[r][v]);
      }
    }
  }
}

using ProductFn = void (*)(const float*, int64_t, const float*, int, float*, int64_t, const char*, int);

// Products of 1 to kTileRows tiles, by tiles - 1.
template <int kVectors, typename Tiles>
struct ProductsOf;
template <int kVectors, std::size_t... kTiles>
struct ProductsOf<kVectors, std::index_sequence<kTiles...>> {
  static constexpr ProductFn kOf[] = {product<kTiles + 1, kVectors>...};
};
template <int kVectors>
using Products = ProductsOf<kVectors, std::make_index_sequence<kTileRows>>;

// The outputs of one tile and vector, from m [36][kb].
FCNTAG_INLINE void transform_back(const float* m, Vec out[4][4]) {
  Vec mid[4][6];
#pragma GCC unroll 6
  for (int x = 0; x < 6; ++x) {
    Vec o[4];
    output_row(load(m + x * kBlock), load(m + (6 + x) * kBlock), load(m + (12 + x) * kBlock),
               load(m + (18 + x) * kBlock), load(m + (24 + x) * kBlock), load(m + (30 + x) * kBlock), o);
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) mid[i][x] = o[i];
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) output_row(mid[i][0], mid[i][1], mid[i][2], mid[i][3], mid[i][4], mid[i][5], out[i]);
}

// The code of a built window: a unit is one tile, which is pooled in registers.
template <int kPoolH, int kPoolW, Activation kActivation>
void pool_tiles(const WinogradTask& t) {
  const PackedConvBlock& w = *t.block;
  const WinogradPlan& p = *t.plan;
  constexpr int kRows = kWinogradTile / kPoolH, kCols = kWinogradTile / kPoolW;
  for (int v = 0; v < kBlock; v += kLanes) {
    const int k = t.k_block * kBlock + v;
    if (k >= t.computed_channels) break;
    const Epilogue<kActivation> epilogue(w, k);
    const float* m = t.m + v;
    const int first = t.unit_begin % p.units();
    int image = t.unit_begin / p.units(), row = first / p.grid_cols, col = first % p.grid_cols;
    float* y = channel_origin(t.y, t.out, k);
    for (int unit = t.unit_begin; unit < t.unit_end; ++unit, m += kPoints * kBlock) {
      Vec o[4][4];
      transform_back(m, o);
      float* to = y + image * t.out.image() + static_cast<int64_t>(row) * kRows * t.out.row() +
                  static_cast<int64_t>(col) * kCols * kChannelBlock;
#pragma GCC unroll 4
      for (int oy = 0; oy < kRows; ++oy) {
#pragma GCC unroll 4
        for (int ox = 0; ox < kCols; ++ox) {
          Vec best = o[oy * kPoolH][ox * kPoolW];
#pragma GCC unroll 4
          for (int i = 0; i < kPoolH; ++i) {
#pragma GCC unroll 4
            for (int j = 0; j < kPoolW; ++j) best = max(best, o[oy * kPoolH + i][ox * kPoolW + j]);
          }
          if (row * kRows + oy >= t.out.height || col * kCols + ox >= t.out.width) continue;
          store(to + oy * t.out.row() + static_cast<int64_t>(ox) * kChannelBlock, epilogue(best));
        }
      }
      if (++col == p.grid_cols) {
        col = 0;
        if (++row == p.grid_rows) {
          row = 0;
          ++image;
        }
      }
    }
  }
}

template <Activation kActivation, typename Windows>
struct PoolTilesOf;
template <Activation kActivation, std::size_t... kIndex>
struct PoolTilesOf<kActivation, std::index_sequence<kIndex...>> {
  static_assert(((kWinogradTile % kBuilt[kIndex].pool_h == 0 && kWinogradTile % kBuilt[kIndex].pool_w == 0) && ...),
                "a window that does not divide a tile has units of several tiles");
  static constexpr void (*kOf[])(const WinogradTask&) = {
      pool_tiles<kBuilt[kIndex].pool_h, kBuilt[kIndex].pool_w, kActivation>...};
};

// The place of a block's window in kBuilt, or -1.
int built(const ConvBlockShape& block) {
  for (std::size_t i = 0; i < kBuiltWindows; ++i) {
    if (block.pool_h == kBuilt[i].pool_h && block.pool_w == kBuilt[i].pool_w) return static_cast<int>(i);
  }
  return -1;
}

bool is_built(const ConvBlockShape& block) { return built(block) >= 0; }

// The general code: products of one unit -> outputs in `buffer` [4 unit_rows][4 unit_cols][lanes] -> pooled values in
// y.
template <Activation kActivation>
void pool_units(const WinogradTask& t, int tiles) {
  const PackedConvBlock& w = *t.block;
  const WinogradPlan& p = *t.plan;
  float* buffer = t.m + static_cast<int64_t>(tiles) * kPoints * kBlock;
  const int width = p.unit_cols * kWinogradTile;
  const int out_rows = p.unit_rows * kWinogradTile / w.pool_h, out_cols = width / w.pool_w;
  for (int v = 0; v < kBlock; v += kLanes) {
    const int k = t.k_block * kBlock + v;
    if (k >= t.computed_channels) break;
    const Epilogue<kActivation> epilogue(w, k);
    for (int unit = t.unit_begin; unit < t.unit_end; ++unit) {
      const float* m = t.m + static_cast<int64_t>(unit - t.unit_begin) * p.unit_tiles() * kPoints * kBlock + v;
      for (int q = 0; q < p.unit_tiles(); ++q, m += kPoints * kBlock) {
        Vec o[4][4];
        transform_back(m, o);
        float* d =
            buffer +
            (static_cast<int64_t>(q / p.unit_cols) * kWinogradTile * width + q % p.unit_cols * kWinogradTile) * kLanes;
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) {
#pragma GCC unroll 4
          for (int j = 0; j < 4; ++j) store(d + (static_cast<int64_t>(i) * width + j) * kLanes, o[i][j]);
        }
      }
      const int image = unit / p.units(), at = unit % p.units();
      const int oy0 = at / p.grid_cols * out_rows, ox0 = at % p.grid_cols * out_cols;
      float* y = channel_origin(t.y + image * t.out.image(), t.out, k);
      const int rows = t.out.height - oy0 < out_rows ? t.out.height - oy0 : out_rows;
      const int cols = t.out.width - ox0 < out_cols ? t.out.width - ox0 : out_cols;
      for (int oy = 0; oy < rows; ++oy) {
        for (int ox = 0; ox < cols; ++ox) {
          const float* s = buffer + (static_cast<int64_t>(oy) * w.pool_h * width + ox * w.pool_w) * kLanes;
          store(y + (oy0 + oy) * t.out.row() + static_cast<int64_t>(ox0 + ox) * kChannelBlock,
                epilogue(window_maximum(s, static_cast<int64_t>(width) * kLanes, kLanes, w.pool_h, w.pool_w)));
        }
      }
    }
  }
}

void multiply(const WinogradTask& t) {
  const int c_blocks = static_cast<int>(t.in.blocks());
  const int tiles = (t.unit_end - t.unit_begin) * t.plan->unit_tiles();
  const int64_t plane = static_cast<int64_t>(c_blocks) * tiles * kSlots;
  const int64_t slice = static_cast<int64_t>(c_blocks) * kSlots * kBlock;
  const int groups = (tiles + kTileRows - 1) / kTileRows;
  // Padding is left out: the last channels of a block, four slots at a time, and a second vector that has no channel.
  constexpr int kQuadChannels = kChannelBlock / kSlots * 4;
  const int quads = (t.block->in_channels + kQuadChannels - 1) / kQuadChannels;
  const ProductFn* products =
      t.computed_channels - t.k_block * kBlock > kLanes ? Products<kVecs>::kOf : Products<1>::kOf;
  // The next point's weights are prefetched while this point's are in use: so many lines of 64 bytes per channel block
  // and group.
  const int lines = (kSlots * kBlock * 4 / 64 + groups - 1) / groups;
  for (int point = 0; point < kPoints; ++point) {
    const float* a = t.v + point * plane;
    const float* b = t.weights + (static_cast<int64_t>(t.k_block) * kPoints + point) * slice;
    for (int g = 0; g < groups; ++g) {
      const int r0 = tiles * g / groups, r1 = tiles * (g + 1) / groups;
      const int64_t done = static_cast<int64_t>(g) * c_blocks;  // lines prefetched for the next point so far
      products[r1 - r0 - 1](a + static_cast<int64_t>(r0) * kSlots, static_cast<int64_t>(tiles) * kSlots, b, quads,
                            t.m + static_cast<int64_t>(r0) * kPoints * kBlock + point * kBlock, kPoints * kBlock,
                            reinterpret_cast<const char*>(b + slice) + done * lines * 64, lines);
    }
  }
  const int window = built(*t.block);
  with_activation(t.block->activation, [&](auto activation) {
    constexpr Activation kActivation = decltype(activation)::kOf;
    if (window < 0) return pool_units<kActivation>(t, tiles);
    PoolTilesOf<kActivation, std::make_index_sequence<kBuiltWindows>>::kOf[window](t);
  });
}

// A channel without weights has sums of 0, whatever comes in.
void constants(const PackedConvBlock& block, float* values) {
  with_activation(block.activation, [&](auto activation) {
    for (int k = 0; k < block.k_blocks * block.k_block; k += kLanes) {
      store(values + k, Epilogue<decltype(activation)::kOf>(block, k)(Vec{}));
    }
  });
}

}  // namespace

extern const WinogradKernels FCNTAG_TABLE(winograd_kernels_);
const WinogradKernels FCNTAG_TABLE(winograd_kernels_) = {transform, multiply, constants, is_built};

}  // namespace fcntag
