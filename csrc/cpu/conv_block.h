// conv_block: y = maxpool(scale * act(conv(x, w) + b) + shift), kernel 3x3 or 1x1, zero padding 'same', stride 1.
//
// Maps are stored in blocks of 16 channels with a border of zeros:
//     [images][ceil(C / 16)][H + 2 * border][W + 2 * border][16]
// so that a 3x3 window needs no edge code and the 16 channels of a pixel are one cache line. The first block's input,
// one channel, is plain: [images][H + 2][W + 2].
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/aligned_buffer.h"
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
  int64_t origin() const { return row() * border + static_cast<int64_t>(border) * pixel(); }
};

// Weights in the order that the kernel reads them, and the epilogue's vectors, padded with zeros to whole blocks.
//   conv_first: [k_blocks][taps][k_block];  others: [k_blocks][c_blocks][taps][16][k_block].
// A channel whose scale is negative has its weights negated and sign = -1: the window's maximum of the negated sums is
// minus the minimum, which is what scale < 0 turns into the maximum.
struct PackedConvBlock : ConvBlockShape {
  bool affine = false;
  int k_block = 0, k_blocks = 0;
  bool winograd = false;  // weight holds winograd.h's
  // Winograd: channels from here on have no weights but zeros. They are constants, which the network writes once.
  int computed_channels = 0;
  AlignedBuffer weight, sign, bias, scale, shift;

  std::size_t bytes() const { return weight.bytes() + sign.bytes() + bias.bytes() + scale.bytes() + shift.bytes(); }
};

// What one task computes: `strip_rows` pooled rows of one image for one block of output channels, in column chunks of
// `chunk_cols` pooled columns; raw sums wait in `scratch` until their pool window is complete.
struct ConvBlockTask {
  const PackedConvBlock* weights;
  MapLayout in, out;
  const float* x;          // image origin (pixel (0, 0), block 0)
  float* y;                // image origin
  int k_block;             // index
  int row_begin, row_end;  // pooled rows
  int chunk_cols;          // pooled columns
  float* scratch;          // [rows][columns][k_block]
};

// Kernels of one instruction set.
struct ConvBlockKernels {
  int k_block_first;  // output channels per task, first block (in_channels = 1)
  int k_block;        // ... other blocks
  void (*conv_first)(const ConvBlockTask&);
  void (*conv)(const ConvBlockTask&);
};

PackedConvBlock pack_conv_block(const ConvBlockSpec& spec, const ConvBlockKernels& kernels);

// How a map is cut into tasks.
struct ConvBlockPlan {
  MapLayout in, out;
  int strip_rows = 1, strips = 1, chunk_cols = 1;
  std::size_t scratch = 0;  // floats per worker
};

ConvBlockPlan plan_conv_block(const PackedConvBlock& block, int height, int width, int out_border);

}  // namespace fcntag
