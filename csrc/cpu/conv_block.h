// conv_block: y = maxpool(scale * act(conv(x, w) + b) + shift), kernel 3x3 or 1x1, zero padding 'same', stride 1.
//
// Maps are stored in blocks of 16 channels with a border of zeros:
//     [images][ceil(C / 16)][H + 2 * border][W + 2 * border][16]
// so that a 3x3 window needs no edge code and the 16 channels of a pixel are one cache line. The first block's input,
// one channel, is plain: [images][H + 2][W + 2].
//
// This file has what every algorithm needs, and the direct one; winograd.h is the other.
#pragma once

#include <cstdint>
#include <variant>

#include "cpu/aligned_buffer.h"
#include "cpu/workers.h"
#include "model/network_spec.h"

namespace fcntag {

constexpr int kChannelBlock = 16;  // channels in a block of a map
constexpr int kSmallMap = 32;      // pixels of a map that has hardly more interior than border

// A map in memory: where pixel (0, 0) of image 0 lies and how far apart things are, in floats.
struct MapLayout {
  int height = 0, width = 0, channels = 0, border = 0;
  bool plain = false;      // one channel, not in blocks
  int rows = 0, cols = 0;  // with the border, and zeros below and to the right for kernels that read whole tiles

  int pixel() const { return plain ? 1 : kChannelBlock; }
  int64_t row() const { return static_cast<int64_t>(cols) * pixel(); }
  int64_t block() const { return row() * rows; }
  int64_t blocks() const { return plain ? 1 : (channels + kChannelBlock - 1) / kChannelBlock; }
  int64_t image() const { return block() * blocks(); }
  int64_t origin() const { return border * row() + static_cast<int64_t>(border) * pixel(); }
};

// Weights as the direct kernels read them:
//   first block: [k_blocks][taps][k_block];  others: [k_blocks][c_blocks][taps][16][k_block].
struct DirectWeights {
  AlignedBuffer values;
};

// Transformed weights [k_blocks][36][C / 16][16][k_block] in float, or [k_blocks][36][C / 16][8][k_block][2] in
// bfloat16 (two channels side by side).
struct WinogradWeights {
  AlignedBuffer values;
  // Channels from here on have no weights but zeros. Their outputs are constants, which the network writes once.
  int computed_channels = 0;
};

// A block as its algorithm's kernels read it. A channel whose scale is negative has its weights negated and sign = -1:
// the window's maximum of the negated sums is minus the minimum, which is what scale < 0 turns into the maximum.
struct PackedConvBlock : ConvBlockShape {
  bool affine = false;
  int k_block = 0, k_blocks = 0;  // output channels of a task, and how many such blocks there are
  AlignedBuffer sign, bias, scale, shift;
  std::variant<DirectWeights, WinogradWeights> weights;

  std::size_t bytes() const;
};

// The block without its weights, for k_block output channels a task.
PackedConvBlock pack_epilogue(const ConvBlockSpec& spec, int k_block);

// Images that go through a block together: x and y point at pixel (0, 0) of the first one.
struct BlockRun {
  MapLayout in, out;
  const float* x;
  float* y;
  int images;
};

// ---- the direct algorithm ----

// One task computes `strip_rows` pooled rows of one image for one block of output channels, in column chunks of
// `chunk_cols` pooled columns; raw sums wait in `scratch` until their pool window is complete.
struct ConvBlockTask {
  const PackedConvBlock* block;
  const float* weights;
  MapLayout in, out;
  const float* x;          // image origin (pixel (0, 0), block 0)
  float* y;                // image origin
  int k_block;             // index
  int row_begin, row_end;  // pooled rows
  int chunk_cols;          // pooled columns
  float* scratch;          // [rows][columns][k_block]
};

using ConvBlockKernel = void (*)(const ConvBlockTask&);

// Kernels of one instruction set: for the first block, whose input is plain, and for any other.
struct ConvFirstKernels {
  int k_block;  // output channels of a task
  ConvBlockKernel run;
  bool (*is_built)(const ConvBlockShape& block);  // whether the block's pool window has code of its own
};
struct ConvBlockKernels {
  int k_block;
  ConvBlockKernel run;
};

// The way that a map is cut into tasks.
struct DirectPlan {
  int strip_rows = 1, strips = 1, chunk_cols = 1;
  std::size_t scratch = 0;  // floats per worker
};

// `plain`: for the first block's input, which is not in blocks. A later map of one channel is.
std::size_t direct_weight_floats(const ConvBlockShape& block, int k_block, bool plain);
PackedConvBlock pack_direct(const ConvBlockSpec& spec, int k_block, bool plain);
DirectPlan plan_direct(const ConvBlockShape& block, int k_block, const MapLayout& out);
void run_direct(ConvBlockKernel kernel, const PackedConvBlock& block, const DirectPlan& plan, const BlockRun& run,
                Workers& workers);

}  // namespace fcntag
