#include "cpu/conv_block.h"

#include <algorithm>

namespace fcntag {
namespace {

// The raw sums of a task stay within so many floats, 64 KB: next to a slab of weights, they fit any level-2 cache.
constexpr int kScratch = 16384;
// A task of fewer pixels than this would not pay for streaming its weights.
constexpr int kPixels = 64;

int channels_in_block(bool plain) { return plain ? 1 : kChannelBlock; }
int channel_blocks(const ConvBlockShape& block, bool plain) {
  const int c_block = channels_in_block(plain);
  return (block.in_channels + c_block - 1) / c_block;
}

}  // namespace

std::size_t PackedConvBlock::bytes() const {
  const std::size_t packed = std::visit([](const auto& w) { return w.values.bytes(); }, weights);
  return packed + sign.bytes() + bias.bytes() + scale.bytes() + shift.bytes();
}

PackedConvBlock pack_epilogue(const ConvBlockSpec& spec, int k_block) {
  PackedConvBlock packed;
  static_cast<ConvBlockShape&>(packed) = spec;
  packed.affine = spec.scale != nullptr;
  packed.k_block = k_block;
  packed.k_blocks = (spec.out_channels + k_block - 1) / k_block;
  const std::size_t padded = static_cast<std::size_t>(packed.k_blocks) * k_block;
  packed.sign = AlignedBuffer(padded);
  packed.bias = AlignedBuffer(padded);
  packed.scale = AlignedBuffer(padded);
  packed.shift = AlignedBuffer(padded);
  for (int k = 0; k < spec.out_channels; ++k) {
    packed.sign.data()[k] = packed.affine && spec.scale[k] < 0 ? -1.0f : 1.0f;
    packed.bias.data()[k] = spec.bias[k];
    if (packed.affine) {
      packed.scale.data()[k] = spec.scale[k];
      packed.shift.data()[k] = spec.shift[k];
    }
  }
  return packed;
}

std::size_t direct_weight_floats(const ConvBlockShape& block, int k_block, bool plain) {
  const std::size_t padded = static_cast<std::size_t>((block.out_channels + k_block - 1) / k_block) * k_block;
  const std::size_t row = static_cast<std::size_t>(block.kernel) * block.kernel * channels_in_block(plain);
  // One channel block more: the last prefetch of a block may look past its end.
  return padded * row * channel_blocks(block, plain) + row * k_block;
}

PackedConvBlock pack_direct(const ConvBlockSpec& spec, int k_block, bool plain) {
  PackedConvBlock packed = pack_epilogue(spec, k_block);
  DirectWeights& weights = packed.weights.emplace<DirectWeights>();
  weights.values = AlignedBuffer(direct_weight_floats(spec, k_block, plain));
  const int taps = spec.kernel * spec.kernel, c_block = channels_in_block(plain),
            c_blocks = channel_blocks(spec, plain);
  for (int k = 0; k < spec.out_channels; ++k) {
    const bool negate = packed.sign.data()[k] < 0;
    for (int c = 0; c < spec.in_channels; ++c) {
      for (int t = 0; t < taps; ++t) {
        const float w = spec.weight[(static_cast<std::size_t>(k) * spec.in_channels + c) * taps + t];
        const std::size_t block = (static_cast<std::size_t>(k / k_block) * c_blocks + c / c_block) * taps + t;
        weights.values.data()[(block * c_block + c % c_block) * k_block + k % k_block] = negate ? -w : w;
      }
    }
  }
  return packed;
}

DirectPlan plan_direct(const ConvBlockShape& block, int k_block, const MapLayout& out) {
  DirectPlan plan;
  const int columns = (out.width - 1) * block.stride_w + block.pool_w;
  // Windows that overlap share rows. With several pooled rows in a strip, the shared rows are computed once.
  int rows = block.pool_h > block.stride_h ? 4 : 1;
  while (rows < out.height && ((rows - 1) * block.stride_h + block.pool_h) * columns < kPixels) ++rows;
  plan.strip_rows = std::min(rows, out.height);
  plan.strips = (out.height + plan.strip_rows - 1) / plan.strip_rows;
  const int conv_rows = (plan.strip_rows - 1) * block.stride_h + block.pool_h;
  const int limit = std::max(1, kScratch / (conv_rows * k_block));  // columns
  plan.chunk_cols = std::clamp((limit - block.pool_w) / block.stride_w + 1, 1, out.width);
  const int chunk_columns = (plan.chunk_cols - 1) * block.stride_w + block.pool_w;
  // The first block's kernel stores whole tiles, up to one tile more per row, and small maps keep two sets of sums.
  plan.scratch = static_cast<std::size_t>(conv_rows) * (chunk_columns + 32) * k_block;
  return plan;
}

void run_direct(ConvBlockKernel kernel, const PackedConvBlock& block, const DirectPlan& plan, const BlockRun& run,
                Workers& workers) {
  const float* weights = std::get<DirectWeights>(block.weights).values.data();
  const int64_t strips = static_cast<int64_t>(run.images) * plan.strips;
  const double multiply_adds = 1.0 * run.images * run.out.height * block.pool_h * run.out.width * block.pool_w *
                               block.in_channels * block.out_channels * block.kernel * block.kernel;
  // Output channels are the outer loop: the weights of a task are still in a cache when the next strip takes them.
  workers.loop(strips * block.k_blocks, multiply_adds, [&](int64_t i, int worker) {
    const int64_t strip = i % strips;
    const int64_t image = strip / plan.strips;
    ConvBlockTask task;
    task.block = &block;
    task.weights = weights;
    task.in = run.in;
    task.out = run.out;
    task.x = run.x + image * run.in.image();
    task.y = run.y + image * run.out.image();
    task.k_block = static_cast<int>(i / strips);
    task.row_begin = static_cast<int>(strip % plan.strips) * plan.strip_rows;
    task.row_end = std::min(task.row_begin + plan.strip_rows, run.out.height);
    task.chunk_cols = plan.chunk_cols;
    task.scratch = workers.scratch(worker);
    kernel(task);
  });
}

}  // namespace fcntag
