#include "cpu/conv_block.h"

#include <algorithm>

namespace fcntag {

PackedConvBlock pack_conv_block(const ConvBlockSpec& spec, const ConvBlockKernels& kernels) {
  PackedConvBlock packed;
  static_cast<ConvBlockShape&>(packed) = spec;
  packed.affine = spec.scale != nullptr;
  const bool first = spec.in_channels == 1;
  const int kb = first ? kernels.k_block_first : kernels.k_block;
  packed.k_block = kb;
  packed.k_blocks = (spec.out_channels + kb - 1) / kb;
  const int taps = spec.kernel * spec.kernel;
  const int c_block = first ? 1 : kChannelBlock;
  const int c_blocks = (spec.in_channels + c_block - 1) / c_block;
  const std::size_t padded = static_cast<std::size_t>(packed.k_blocks) * kb;
  // One extra channel block: the last prefetch of a block may look past its end.
  packed.weight = AlignedBuffer(padded * taps * c_blocks * c_block + static_cast<std::size_t>(taps) * c_block * kb);
  packed.sign = AlignedBuffer(padded);
  packed.bias = AlignedBuffer(padded);
  packed.scale = AlignedBuffer(padded);
  packed.shift = AlignedBuffer(padded);
  for (int k = 0; k < spec.out_channels; ++k) {
    const bool negate = packed.affine && spec.scale[k] < 0;
    packed.sign.data()[k] = negate ? -1.0f : 1.0f;
    packed.bias.data()[k] = spec.bias[k];
    if (packed.affine) {
      packed.scale.data()[k] = spec.scale[k];
      packed.shift.data()[k] = spec.shift[k];
    }
    for (int c = 0; c < spec.in_channels; ++c) {
      for (int t = 0; t < taps; ++t) {
        const float w = spec.weight[(static_cast<std::size_t>(k) * spec.in_channels + c) * taps + t];
        const std::size_t block = (static_cast<std::size_t>(k / kb) * c_blocks + c / c_block) * taps + t;
        packed.weight.data()[(block * c_block + c % c_block) * kb + k % kb] = negate ? -w : w;
      }
    }
  }
  return packed;
}

ConvBlockPlan plan_conv_block(const PackedConvBlock& block, int height, int width, int out_border) {
  const MapSize out = output_size(block, {height, width});
  ConvBlockPlan plan;
  plan.in.height = height;
  plan.in.width = width;
  plan.in.channels = block.in_channels;
  plan.in.border = block.kernel / 2;
  plan.in.plain = block.in_channels == 1;
  plan.in.rows = height + 2 * plan.in.border;
  plan.in.cols = width + 2 * plan.in.border;
  plan.out.height = out.height;
  plan.out.width = out.width;
  plan.out.channels = block.out_channels;
  plan.out.border = out_border;
  plan.out.rows = plan.out.height + 2 * out_border;
  plan.out.cols = plan.out.width + 2 * out_border;
  // Raw sums of a task stay within kScratch floats (64 KB: next to a slab of weights in any level-2 cache).
  constexpr int kScratch = 16384;
  // Fewer pixels than this would not pay for streaming the task's weights.
  constexpr int kPixels = 64;
  const int columns = (plan.out.width - 1) * block.stride_w + block.pool_w;
  // Windows that overlap share rows: several pooled rows in one strip compute the shared ones once.
  int rows = block.pool_h > block.stride_h ? 4 : 1;
  while (rows < plan.out.height && ((rows - 1) * block.stride_h + block.pool_h) * columns < kPixels) ++rows;
  plan.strip_rows = std::min(rows, plan.out.height);
  plan.strips = (plan.out.height + plan.strip_rows - 1) / plan.strip_rows;
  const int conv_rows = (plan.strip_rows - 1) * block.stride_h + block.pool_h;
  const int limit = std::max(1, kScratch / (conv_rows * block.k_block));  // columns
  plan.chunk_cols = std::clamp((limit - block.pool_w) / block.stride_w + 1, 1, plan.out.width);
  const int chunk_columns = (plan.chunk_cols - 1) * block.stride_w + block.pool_w;
  // The first block's kernel stores whole tiles, up to one tile more per row; small maps keep two sets of sums.
  plan.scratch = static_cast<std::size_t>(conv_rows) * (chunk_columns + 32) * block.k_block;
  return plan;
}

}  // namespace fcntag
