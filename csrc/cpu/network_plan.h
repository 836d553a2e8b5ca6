// The plan of a network on a CPU: algorithms, layouts, tilings and groups of images. It is made of numbers, without a
// buffer or a kernel, so that it can be tested alone.
#pragma once

#include <variant>
#include <vector>

#include "cpu/conv_block.h"
#include "cpu/winograd.h"
#include "model/network_spec.h"

namespace fcntag {

// The way to compute blocks. kAuto leaves it to the cost model; tests and measurements ask for one way wherever it
// fits.
enum class Algorithm { kAuto, kDirect, kWinograd };

// A block and the way it is computed, which its packing and its plan have in common.
struct PlannedBlock : ConvBlockShape {
  Algorithm algorithm = Algorithm::kDirect;  // never kAuto
  bool plain = false;                        // the first block: its input, one channel, is not in blocks of channels
  int k_block = 0;                           // output channels of a task
  std::size_t weight_floats = 0;             // packed
};

// Chooses the way of every block of a checked spec, for its largest input. k_block_first and k_block are the output
// channels of a task of the first block's kernel and of the others'.
std::vector<PlannedBlock> plan_blocks(const NetworkSpec& spec, Precision precision, Algorithm algorithm,
                                      int k_block_first, int k_block);

struct BlockPlan {
  MapLayout in, out;
  std::variant<DirectPlan, WinogradPlan> tiling;
};

struct NetworkPlan {
  std::vector<BlockPlan> blocks;
  std::size_t scratch_floats = 0;  // of every worker
  std::size_t shared_floats = 0;   // of all workers together

  const MapLayout& map(std::size_t index) const { return index == 0 ? blocks[0].in : blocks[index - 1].out; }
};

// Throws std::invalid_argument where a map is smaller than its pool window.
NetworkPlan plan_network(const std::vector<PlannedBlock>& blocks, MapSize input);

// The first blocks have large maps and few weights: so few images go through them together that a map is still in a
// cache when the next block reads it. The deep blocks have small maps and many weights: images go through them in
// larger groups, which share one reading of the weights.
struct ImageGroups {
  std::size_t deep = 1;             // index of the first deep block, or the number of blocks
  int images = 1, deep_images = 1;  // of a group, before it and from it on
};

// `plan` is that of the largest input.
ImageGroups plan_groups(const std::vector<PlannedBlock>& blocks, const NetworkPlan& plan, int threads);

}  // namespace fcntag
