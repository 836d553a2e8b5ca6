#include "cpu/winograd.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <vector>

namespace fcntag {

namespace {

uint16_t to_bfloat16(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);  // nearest, ties to even
}

// The cost model was fitted on two cores of a server CPU, which do so many multiply-adds and read so many bytes per
// nanosecond. Only the ratio matters, and it is alike on most machines: about 3 multiply-adds a byte from memory.
constexpr double kMultiplyAdds = 100;
constexpr double kBytes = 40;
// Weights of fewer bytes stay in a last-level cache, which gives kCacheBytes per nanosecond. Larger ones come from
// memory.
constexpr double kCache = 16e6;
constexpr double kCacheBytes = 100;
// A value that goes through a transform costs as much as this part of a multiply-add.
constexpr double kTransform = 0.25;
// Units of more tiles are left to the direct kernels: their outputs would leave the cache before they are pooled.
constexpr int kMaxUnitTiles = 64;
// With fewer units than this, threads share the tiles: otherwise some threads would have no task.
constexpr int kFewUnits = 24;
// The input transform of 16 channels of a tile takes as long as so many multiply-adds.
constexpr double kItemMultiplyAdds = 4000;

int ceil_div(int a, int b) { return (a + b - 1) / b; }

// Tiles on a side of a unit: so many that whole windows end on a tile's edge, or as many as the map has.
int unit_side(int pool, int out) {
  return std::min(std::lcm(kWinogradTile, pool) / kWinogradTile, ceil_div(out * pool, kWinogradTile));
}

double milliseconds(double multiply_adds, double weight_bytes) {
  const double compute = multiply_adds / kMultiplyAdds;
  return 1e-6 * std::max(compute, weight_bytes / (weight_bytes > kCache ? kBytes : kCacheBytes));
}

// Kernel rows (or columns) of `kept` outputs of a map of `size`. On small maps, the direct tiles leave out those that
// meet only the zero border.
double kernel_lines(int kept, int size, bool small) { return 3.0 * kept - (small ? 1 + (kept == size ? 1 : 0) : 0); }

// Floats of the weights of one point, 16 input channels and one block of output channels.
std::size_t slab_floats(int k_block, bool bfloat16) {
  return static_cast<std::size_t>(kChannelBlock) * k_block / (bfloat16 ? 2 : 1);
}

bool is_constant(const ConvBlockSpec& s, int channel) {
  const std::size_t taps = static_cast<std::size_t>(s.in_channels) * s.kernel * s.kernel;
  const float* weight = s.weight + channel * taps;
  return std::all_of(weight, weight + taps, [](float w) { return w == 0; });
}

}  // namespace

bool winograd_fits(const ConvBlockShape& s, int height, int width) {
  return s.kernel == 3 && s.in_channels > 1 && s.pool_h == s.stride_h && s.pool_w == s.stride_w &&
         unit_side(s.pool_h, height / s.pool_h) * unit_side(s.pool_w, width / s.pool_w) <= kMaxUnitTiles;
}

bool winograd_pays(const ConvBlockShape& s, int height, int width) {
  if (s.in_channels < kChannelBlock) return false;  // most of a block of channels would be padding
  const int rows = height / s.pool_h * s.pool_h, cols = width / s.pool_w * s.pool_w;  // that pooling keeps
  const int ur = unit_side(s.pool_h, height / s.pool_h), uc = unit_side(s.pool_w, width / s.pool_w);
  const double tiles = 1.0 * ceil_div(rows, 4 * ur) * ur * ceil_div(cols, 4 * uc) * uc;
  const double pairs = static_cast<double>(s.in_channels) * s.out_channels;
  const bool small = rows * cols <= kSmallMap;
  const double taps = kernel_lines(rows, height, small) * kernel_lines(cols, width, small);
  const double direct = milliseconds(pairs * taps, 36 * pairs);
  const double transforms = kTransform * tiles * kWinogradPoints * 6 * (s.in_channels + s.out_channels);
  return milliseconds(kWinogradPoints * pairs * tiles + transforms, 144 * pairs) < direct;
}

std::size_t winograd_weight_floats(const ConvBlockShape& block, int k_block, bool bfloat16) {
  const std::size_t slab = slab_floats(k_block, bfloat16);
  // One slab more: prefetches run past the end of the last block.
  return static_cast<std::size_t>(ceil_div(block.out_channels, k_block)) * kWinogradPoints *
             ceil_div(block.in_channels, kChannelBlock) * slab +
         slab;
}

PackedConvBlock pack_winograd(const ConvBlockSpec& spec, int k_block, bool bfloat16) {
  PackedConvBlock packed = pack_epilogue(spec, k_block);
  WinogradWeights& transformed = packed.weights.emplace<WinogradWeights>();
  transformed.values = AlignedBuffer(winograd_weight_floats(spec, k_block, bfloat16));
  // Rows of G for the points 0, +-a, +-b, infinity (Winograd 1980; Lavin and Gray 2016), in double, rounded once.
  const double a = std::sqrt(0.5), b = std::sqrt(2.0);
  const double points[5] = {0, a, -a, b, -b};
  const double na = 2 * a * a * (a * a - b * b), nb = 2 * b * b * (b * b - a * a);
  const double norms[5] = {a * a * b * b, na, na, nb, nb};
  double g[6][3] = {};
  for (int i = 0; i < 5; ++i) {
    for (int j = 0; j < 3; ++j) g[i][j] = std::pow(points[i], j) / norms[i];
  }
  g[5][2] = 1;
  const int kb = k_block;
  const int c_blocks = ceil_div(spec.in_channels, kChannelBlock);
  const std::size_t slab = slab_floats(k_block, bfloat16);
  for (int k = 0; k < spec.out_channels; ++k) {
    const bool negate = packed.sign.data()[k] < 0;
    for (int c = 0; c < spec.in_channels; ++c) {
      const float* w = spec.weight + (static_cast<std::size_t>(k) * spec.in_channels + c) * 9;
      double rows[6][3];
      for (int i = 0; i < 6; ++i) {
        for (int x = 0; x < 3; ++x) rows[i][x] = g[i][0] * w[x] + g[i][1] * w[3 + x] + g[i][2] * w[6 + x];
      }
      for (int i = 0; i < 6; ++i) {
        for (int j = 0; j < 6; ++j) {
          const double u = rows[i][0] * g[j][0] + rows[i][1] * g[j][1] + rows[i][2] * g[j][2];
          const std::size_t at = (static_cast<std::size_t>(k / kb) * kWinogradPoints + i * 6 + j) * c_blocks;
          float* weights = transformed.values.data() + (at + c / kChannelBlock) * slab;
          const float value = static_cast<float>(negate ? -u : u);
          const int inner = c % kChannelBlock;
          if (bfloat16) {
            const uint16_t half = to_bfloat16(value);
            char* pair = reinterpret_cast<char*>(weights + static_cast<std::size_t>(inner / 2) * kb + k % kb);
            std::memcpy(pair + inner % 2 * sizeof half, &half, sizeof half);
          } else {
            weights[static_cast<std::size_t>(inner) * kb + k % kb] = value;
          }
        }
      }
    }
  }
  int live = spec.out_channels;
  while (live > 1 && is_constant(spec, live - 1)) --live;
  const int lanes = kb / 2;  // the kernels compute so many channels at a time
  transformed.computed_channels = std::min(spec.out_channels, ceil_div(live, lanes) * lanes);
  return packed;
}

WinogradPlan plan_winograd(const ConvBlockShape& block, int k_block, MapLayout& in, const MapLayout& out) {
  WinogradPlan plan;
  plan.unit_rows = unit_side(block.pool_h, out.height);
  plan.unit_cols = unit_side(block.pool_w, out.width);
  plan.grid_rows = ceil_div(out.height * block.pool_h, kWinogradTile * plan.unit_rows);
  plan.grid_cols = ceil_div(out.width * block.pool_w, kWinogradTile * plan.unit_cols);
  in.rows = std::max(in.rows, kWinogradTile * plan.unit_rows * plan.grid_rows + 2);
  in.cols = std::max(in.cols, kWinogradTile * plan.unit_cols * plan.grid_cols + 2);
  const int channels = ceil_div(block.in_channels, kChannelBlock) * kChannelBlock;
  // Measured. With few channels, transformed tiles, products and weights share a level-2 cache of 1 MB. With many, the
  // weights come from further away in any case, and come less often for more tiles.
  const int tiles = channels > 192 ? 48 : 36;
  plan.block_units = std::max(1, tiles / plan.unit_tiles());
  const double weights = 4.0 * kWinogradPoints * channels * block.out_channels;
  plan.share_tiles = weights > 1.5 * kCache || channels > 256 || plan.units() < kFewUnits;
  if (plan.share_tiles) plan.block_units = std::max(1, std::min(96, 65536 / channels) / plan.unit_tiles());
  const std::size_t block_tiles = static_cast<std::size_t>(plan.block_units) * plan.unit_tiles();
  plan.v_floats = kWinogradPoints * block_tiles * channels + 1024;
  plan.m_floats =
      kWinogradPoints * block_tiles * k_block + static_cast<std::size_t>(16) * plan.unit_tiles() * kChannelBlock + 1024;
  return plan;
}

void run_winograd(const WinogradKernels& kernels, const PackedConvBlock& block, const WinogradPlan& plan,
                  const BlockRun& run, Workers& workers) {
  const WinogradWeights& weights = std::get<WinogradWeights>(block.weights);
  WinogradTask base{};
  base.block = &block;
  base.weights = weights.values.data();
  base.computed_channels = weights.computed_channels;
  base.plan = &plan;
  base.in = run.in;
  base.out = run.out;
  base.x = run.x;
  base.y = run.y;
  const int c_blocks = static_cast<int>(run.in.blocks());
  const int units = run.images * plan.units();
  const int k_blocks = ceil_div(weights.computed_channels, block.k_block);
  // Blocks of units are of equal size, because a short last one would read all weights for a few tiles. Where blocks
  // are few, every thread gets as many.
  int unit_blocks = ceil_div(units, plan.block_units);
  const int threads = workers.threads();
  if (!plan.share_tiles && unit_blocks < 8 * threads) {
    unit_blocks = std::min(ceil_div(unit_blocks, threads) * threads, units);
  }
  const auto with_units = [&](WinogradTask task, int64_t i) {
    task.unit_begin = static_cast<int>(units * i / unit_blocks);
    task.unit_end = static_cast<int>(units * (i + 1) / unit_blocks);
    task.item_begin = 0;
    task.item_end = (task.unit_end - task.unit_begin) * plan.unit_tiles() * c_blocks;
    return task;
  };
  const double multiply_adds =
      1.0 * units * plan.unit_tiles() * kWinogradPoints * block.in_channels * block.out_channels;
  if (!plan.share_tiles) {
    workers.loop(unit_blocks, multiply_adds, [&](int64_t i, int worker) {
      WinogradTask task = with_units(base, i);
      task.v = workers.scratch(worker);
      task.m = task.v + plan.v_floats;
      kernels.transform(task);
      for (task.k_block = 0; task.k_block < k_blocks; ++task.k_block) kernels.multiply(task);
    });
    return;
  }
  for (int i = 0; i < unit_blocks; ++i) {
    WinogradTask all = with_units(base, i);
    all.v = workers.shared();
    constexpr int kItems = 16;
    workers.loop(ceil_div(all.item_end, kItems), kItemMultiplyAdds * all.item_end, [&](int64_t j, int) {
      WinogradTask task = all;
      task.item_begin = static_cast<int>(j) * kItems;
      task.item_end = std::min(task.item_begin + kItems, all.item_end);
      kernels.transform(task);
    });
    workers.loop(k_blocks, multiply_adds / unit_blocks, [&](int64_t k, int worker) {
      WinogradTask task = all;
      task.k_block = static_cast<int>(k);
      task.m = workers.scratch(worker);
      kernels.multiply(task);
    });
  }
}

}  // namespace fcntag
