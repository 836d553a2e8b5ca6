#include "cpu/network_plan.h"

#include <algorithm>

namespace fcntag {
namespace {

// A group is as many images as have maps of 2 MB for every thread. Maps of more images would leave the cache before the
// next block reads them.
constexpr std::size_t kMapFloats = std::size_t{1} << 19;
// In the deep blocks, a group is as many images as have maps of 16 MB, but no more than kMaxGroup.
constexpr std::size_t kDeepFloats = std::size_t{4} << 20;
constexpr int kMaxGroup = 16;
// A block is deep from where its weights are at least so many times as large as its input map.
constexpr std::size_t kDeepWeights = 12;

MapLayout input_layout(const PlannedBlock& block, MapSize size) {
  MapLayout in;
  in.height = size.height;
  in.width = size.width;
  in.channels = block.in_channels;
  in.border = block.kernel / 2;
  in.plain = block.plain;
  in.rows = size.height + 2 * in.border;
  in.cols = size.width + 2 * in.border;
  return in;
}

MapLayout output_layout(const ConvBlockShape& block, MapSize size, int border) {
  MapLayout out;
  out.height = size.height;
  out.width = size.width;
  out.channels = block.out_channels;
  out.border = border;
  out.rows = size.height + 2 * border;
  out.cols = size.width + 2 * border;
  return out;
}

}  // namespace

std::vector<PlannedBlock> plan_blocks(const NetworkSpec& spec, Precision precision, Algorithm algorithm,
                                      int k_block_first, int k_block) {
  std::vector<PlannedBlock> blocks;
  MapSize size = {spec.height, spec.width};
  for (const ConvBlockSpec& block : spec.blocks) {
    PlannedBlock planned;
    planned.plain = blocks.empty();
    static_cast<ConvBlockShape&>(planned) = block;
    planned.k_block = planned.plain ? k_block_first : k_block;
    const bool wanted = algorithm == Algorithm::kWinograd ||
                        (algorithm == Algorithm::kAuto && winograd_pays(block, size.height, size.width));
    if (wanted && winograd_fits(block, size.height, size.width)) {
      planned.algorithm = Algorithm::kWinograd;
      planned.weight_floats = winograd_weight_floats(block, planned.k_block, precision == Precision::kBfloat16);
    } else {
      planned.weight_floats = direct_weight_floats(block, planned.k_block, planned.plain);
    }
    blocks.push_back(planned);
    size = output_size(block, size);
  }
  return blocks;
}

NetworkPlan plan_network(const std::vector<PlannedBlock>& blocks, MapSize input) {
  NetworkPlan plan;
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    const PlannedBlock& block = blocks[i];
    const MapSize output = output_size(block, input);
    BlockPlan b;
    b.in = input_layout(block, input);
    b.out = output_layout(block, output, i + 1 < blocks.size() ? blocks[i + 1].kernel / 2 : 0);
    if (block.algorithm == Algorithm::kWinograd) {
      const WinogradPlan tiling = plan_winograd(block, block.k_block, b.in, b.out);
      const std::size_t own = tiling.share_tiles ? 0 : tiling.v_floats;
      plan.scratch_floats = std::max(plan.scratch_floats, own + tiling.m_floats);
      if (tiling.share_tiles) plan.shared_floats = std::max(plan.shared_floats, tiling.v_floats);
      b.tiling = tiling;
    } else {
      const DirectPlan tiling = plan_direct(block, block.k_block, b.out);
      plan.scratch_floats = std::max(plan.scratch_floats, tiling.scratch);
      b.tiling = tiling;
    }
    if (i > 0) {  // a map is laid out for the block that reads it
      plan.blocks[i - 1].out.rows = b.in.rows;
      plan.blocks[i - 1].out.cols = b.in.cols;
    }
    plan.blocks.push_back(b);
    input = output;
  }
  return plan;
}

ImageGroups plan_groups(const std::vector<PlannedBlock>& blocks, const NetworkPlan& plan, int threads) {
  const auto floats = [&](std::size_t first, std::size_t last) {
    std::size_t sum = 0;
    for (std::size_t i = first; i < last; ++i) sum += plan.map(i).image();
    return std::max<std::size_t>(sum, 1);
  };
  const auto group = [](std::size_t images) { return static_cast<int>(std::clamp<std::size_t>(images, 1, kMaxGroup)); };
  ImageGroups groups;
  while (groups.deep < blocks.size() &&
         blocks[groups.deep].weight_floats < kDeepWeights * plan.map(groups.deep).image()) {
    ++groups.deep;
  }
  groups.deep_images = group(kDeepFloats / floats(groups.deep, blocks.size() + 1));
  groups.images = std::min(group(kMapFloats * threads / floats(0, groups.deep)), groups.deep_images);
  return groups;
}

}  // namespace fcntag
