// Network: a block list and a head, planned once for a device and run many times.
//
// Every buffer is allocated at construction for the largest input; run() allocates nothing. A batch goes through the
// blocks and the head in groups of images that fit cache-friendly budgets, so memory does not grow with the batch. One
// thread may call run() at a time.
#pragma once

#include <memory>
#include <vector>

#include "cpu/dense.h"
#include "cpu/isa.h"
#include "cpu/kernel_table.h"
#include "cpu/network_plan.h"
#include "cpu/thread_pool.h"
#include "cpu/workers.h"
#include "model/network_outputs.h"
#include "model/network_spec.h"

namespace fcntag {

// The code that pools a block: a window's own, the general code of a kernel that has others (slower), or the only one
// of a kernel that takes every window alike.
enum class WindowCode { kBuilt, kGeneral, kOnly };

class Network {
 public:
  // The precision is kFloat32 or kBfloat16. With bfloat16, Winograd blocks multiply bfloat16 and sum in float; the
  // other blocks stay float. Throws std::invalid_argument where the spec's parts do not fit one another, or the CPU
  // lacks the precision.
  Network(const NetworkSpec& spec, Precision precision, Algorithm algorithm, std::shared_ptr<ThreadPool> pool);

  // x [batch, height, width] with height, width at most those of construction, and of a size that gives the head as
  // many features as it takes. Results do not depend on batch, position in it, or thread count.
  void run(const float* x, int batch, int height, int width, const NetworkOutputs& outputs);

  std::size_t memory_bytes() const;  // weights and buffers
  int n_blocks() const { return static_cast<int>(blocks_.size()); }
  int n_tags() const { return n_tags_; }
  int last_features() const { return hidden_.empty() ? in_features_ : hidden_.back().out_features; }
  std::vector<int> hidden_features() const;  // out_features of every hidden layer
  int block_channels() const;                // sum of out_channels
  const std::vector<PlannedBlock>& planned_blocks() const { return planned_; }
  WindowCode window_code(std::size_t block) const;
  // The plan of an input size; throws std::invalid_argument where run() would.
  NetworkPlan plan_for(MapSize input) const;
  const char* isa() const { return isa_name(isa_); }

 private:
  void plan(MapSize input);
  void write_constants(std::size_t index);
  void run_block(std::size_t index, int images, int out_image);
  void copy_input(const float* x, int image);
  void read_outputs(std::size_t first, std::size_t last, int image, int64_t row, float* features,
                    const NetworkOutputs& outputs);
  void run_head(int images, int64_t row, const NetworkOutputs& outputs);

  Isa isa_;
  const KernelRow* kernels_;
  const WinogradKernels* winograd_kernels_;  // for the network's precision
  Workers workers_;
  std::vector<PlannedBlock> planned_;
  std::vector<PackedConvBlock> blocks_;
  Flatten flatten_;
  int in_features_, n_tags_;
  std::vector<float> head_weight_, head_bias_;
  int head_images_ = 0;          // that the dense layers take together, at most
  std::vector<float> features_;  // [head_images_][in_features_]
  std::vector<double> logits_;   // [head_images_][n_tags_]
  std::vector<PackedDense> hidden_;
  std::vector<AlignedBuffer> hidden_outputs_;  // of every hidden layer, [head_images_][padded()]
  MapSize largest_;                            // input that the buffers have room for
  MapSize input_;                              // input of plan_
  NetworkPlan plan_;
  ImageGroups groups_;
  std::vector<AlignedBuffer> maps_;  // the input and every block's output; those from groups_.deep on hold more images
};

}  // namespace fcntag
