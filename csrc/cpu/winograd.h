// winograd: the 3x3 conv_block by Winograd's F(4x4, 3x3), which takes 36 multiplications for 16 outputs where the
// direct sum takes 144. It is fused with bias, activation, affine and max-pool: the full-resolution map is never
// written.
//
// The points are 0, +-1/sqrt(2), +-sqrt(2) and infinity. Their powers stay near 1, which keeps the rounding error about
// three times below that of the textbook's 0, +-1, +-2.
//
// A *unit* is the smallest rectangle of 4x4 tiles whose pool windows are complete: lcm(4, pool) on a side, or the whole
// map where that is smaller. Windows must not overlap (stride = window). Units may reach beyond the map, which has
// enough zeros around it for them.
#pragma once

#include "cpu/conv_block.h"

namespace fcntag {

constexpr int kWinogradTile = 4;     // outputs on a side
constexpr int kWinogradPoints = 36;  // 6 x 6 products of a tile

struct WinogradPlan {
  int unit_rows = 1, unit_cols = 1;  // tiles of a unit
  int grid_rows = 0, grid_cols = 0;  // units of an image
  int block_units = 1;               // units that go through the product together
  // Threads share the transformed tiles and split the output channels, so that every weight is read from memory once.
  // That pays for few units and for large weights.
  bool share_tiles = false;
  std::size_t v_floats = 0;  // transformed tiles of a block of units
  std::size_t m_floats = 0;  // products of a block of units, and a unit's outputs

  int units() const { return grid_rows * grid_cols; }
  int unit_tiles() const { return unit_rows * unit_cols; }
};

// One task takes units [unit_begin, unit_end), counted over the images of a group.
struct WinogradTask {
  const PackedConvBlock* block;
  const float* weights;
  int computed_channels;
  const WinogradPlan* plan;
  MapLayout in, out;
  const float* x;  // first image of the group: pixel (0, 0), block 0
  float* y;
  int unit_begin, unit_end;
  int k_block;               // for multiply() only
  int item_begin, item_end;  // for transform() only: item number = tile * channel blocks + channel block
  // V and M of Lavin and Gray 2016, section 4: transformed inputs and their products with the transformed weights.
  float* v;  // [36][C / 16][tiles][16]
  float* m;  // [tiles][36][k_block], then a unit's outputs
};

// Kernels of one instruction set. Those for bfloat16 keep transformed tiles and weights in bfloat16; sums and
// transforms are float.
struct WinogradKernels {
  void (*transform)(const WinogradTask&);  // x -> v
  void (*multiply)(const WinogradTask&);   // v, weights -> m -> y
  // values [k_blocks * k_block]: the output of every channel, were all of its weights zeros.
  void (*constants)(const PackedConvBlock& block, float* values);
  bool (*is_built)(const ConvBlockShape& block);  // whether the block's pool window has code of its own
};

// Whether the block can be computed this way on a map of height x width.
bool winograd_fits(const ConvBlockShape& block, int height, int width);

// Whether a block that fits is faster this way on a map of height x width. A cost model of multiply-adds and bytes
// decides. It knows nothing of threads and batches, so that the choice, and with it the rounding, depends on the
// network alone.
bool winograd_pays(const ConvBlockShape& block, int height, int width);

std::size_t winograd_weight_floats(const ConvBlockShape& block, int k_block, bool bfloat16);
PackedConvBlock pack_winograd(const ConvBlockSpec& spec, int k_block, bool bfloat16);

// Makes the plan and enlarges `in` so that every unit may be read.
WinogradPlan plan_winograd(const ConvBlockShape& block, int k_block, MapLayout& in, const MapLayout& out);

void run_winograd(const WinogradKernels& kernels, const PackedConvBlock& block, const WinogradPlan& plan,
                  const BlockRun& run, Workers& workers);

}  // namespace fcntag
