// Network: a block list and a head, planned once for a device and run many times.
//
// Every buffer is allocated at construction for the largest input; run() allocates nothing. A batch goes through the
// blocks in groups of images that fit cache-friendly budgets, so memory does not grow with the batch. One thread may
// call run() at a time.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "cpu/conv_block.h"
#include "cpu/isa.h"
#include "cpu/thread_pool.h"
#include "cpu/winograd.h"
#include "model/network_outputs.h"
#include "model/network_spec.h"

namespace fcntag {

// How the blocks are computed: by the cost model's choice, or one way wherever it can be (for tests and measurements).
enum class Algorithm { kAuto, kDirect, kWinograd };

class Network {
 public:
  // Precision is kFloat32 or kBfloat16: then Winograd blocks multiply bfloat16, with float sums, and the others stay
  // float. Throws std::invalid_argument where the spec's parts do not fit one another, or the CPU lacks the precision.
  Network(const NetworkSpec& spec, Precision precision, Algorithm algorithm, std::shared_ptr<ThreadPool> pool);

  // x [batch, height, width] with height, width at most those of construction, and of a size that gives the head as
  // many features as it takes. Results do not depend on batch, position in it, or thread count.
  void run(const float* x, int batch, int height, int width, const NetworkOutputs& outputs);

  std::size_t memory_bytes() const;  // weights and buffers
  int n_blocks() const { return static_cast<int>(blocks_.size()); }
  int n_tags() const { return n_tags_; }
  int in_features() const { return in_features_; }
  int block_channels() const;                                     // sum of out_channels
  std::vector<MapLayout> map_sizes(int height, int width) const;  // after each block
  std::vector<Algorithm> algorithms() const;                      // of every block
  const char* isa() const { return isa_name(isa_); }

 private:
  void plan(int height, int width);
  void grow_scratch();
  void loop(int64_t count, double multiply_adds, const std::function<void(int64_t, int)>& task);
  void plan_groups();
  void write_constants(std::size_t index);
  const MapLayout& map(std::size_t index) const;  // the input, or a block's output
  void run_block(std::size_t index, int images, int out_image);
  void run_winograd(std::size_t index, int images, int out_image);
  void copy_input(const float* x, int image);
  void read_outputs(std::size_t first, std::size_t last, int image, int64_t row, const NetworkOutputs& outputs);

  Isa isa_;
  const ConvBlockKernels* kernels_;
  const WinogradKernels* winograd_kernels_;
  std::shared_ptr<ThreadPool> pool_;
  std::vector<PackedConvBlock> blocks_;
  std::vector<ConvBlockPlan> plans_;    // for height_ x width_
  std::vector<WinogradPlan> winograd_;  // ... of the blocks that use it
  Flatten flatten_;
  int in_features_, n_tags_;
  std::vector<float> head_weight_, head_bias_, features_;
  int max_height_, max_width_, height_ = 0, width_ = 0;
  std::size_t deep_ = 1;  // blocks before it see `group_` images at a time, the others `deep_group_`
  int group_ = 1, deep_group_ = 1;
  std::vector<AlignedBuffer> maps_;     // input and every block's output; map `deep_` is the first for a large group
  std::vector<AlignedBuffer> scratch_;  // per worker
  AlignedBuffer shared_;                // transformed tiles that all workers read
};

}  // namespace fcntag
