// Conv blocks and head of one model on one GPU: weights packed once, buffers planned once, kernels put on any stream.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <tuple>
#include <vector>

#include "cuda/conv/conv_first.h"
#include "cuda/conv/conv_plan.h"
#include "cuda/dense.h"
#include "cuda/frontend/clip_finish.h"
#include "cuda/head.h"
#include "cuda/runtime.h"
#include "model/network_outputs.h"
#include "model/network_spec.h"

namespace fcntag {
namespace cuda {

struct NetworkConfig {
  NetworkSpec spec;  // its weights are read by the constructor only
  int max_batch;
  Precision precision;
  int device;
};

// Network inputs on the device: [images][height][width], rows and images as far apart as it says.
struct InputView {
  const float* data;
  int64_t image_stride;
  int row_stride;
  ClipFinish finish = {};  // what is left to do to the data, see finishes()
};

class Network {
 public:
  // Throws std::invalid_argument for a network that no GPU can run, and DeviceError for one that this GPU cannot run or
  // has no memory for. Everything is planned before anything is allocated.
  explicit Network(const NetworkConfig& config);
  ~Network();  // waits for the last run, on whatever stream
  // The bytes that the constructor would allocate. Allocates nothing.
  static std::size_t planned_bytes(const NetworkConfig& config);

  // How batches of up to `batch` images of [height][width] are computed.
  struct Plan {
    int batch, height, width;
    FirstPlan first;
    std::vector<ConvPlan> blocks;            // of blocks 1, 2, ...
    std::vector<DeviceMemory> tables;        // of the same; empty until upload_tables()
    std::vector<std::pair<int, int>> sizes;  // (H, W) of the input and after every block
  };
  // Planned when first asked for; batches share the plan of the next power of two. The reference stays good.
  const Plan& plan(int batch, int height, int width);
  // Puts blocks [begin, end) of a planned run on `stream`, and the head if `end` is n_blocks() + 1.
  void enqueue(const Plan& plan, const InputView& x, const Io* io, int begin, int end, Stream stream) const;
  void enqueue(const Plan& plan, const InputView& x, const Io* io, Stream stream) const {
    enqueue(plan, x, io, 0, n_blocks() + 1, stream);
  }

  // Whoever enqueues claims the buffers first and releases them after: runs on different streams wait for each other,
  // on the device.
  void claim(Stream stream);
  void release(Stream stream);
  void wait() const;  // the host waits for the last run
  bool idle() const;  // wait() would not wait

  // x [batch, height, width] in host memory; returns when the outputs are there. Any batch.
  void run(const float* x, int batch, int height, int width, const NetworkOutputs& outputs);

  // Whether the first block can do what `finish` says to its input. In half precision it does nothing in double.
  bool finishes(const ClipFinish& finish) const { return element_bytes(precision_) != 2 || !finish.in_double; }
  int n_blocks() const { return static_cast<int>(layers_.size()); }
  int n_tags() const { return n_tags_; }
  int last_features() const { return hidden_.empty() ? in_features_ : hidden_.back().outputs; }
  std::vector<int> hidden_features() const;  // out_features of every hidden layer
  int max_batch() const { return max_batch_; }
  int device() const { return device_.index; }
  Precision precision() const { return precision_; }
  int block_channels() const;
  std::vector<std::pair<int, int>> sizes(int height, int width) const;
  const ConvLayer& layer(int block) const { return layers_[block]; }
  std::size_t memory_bytes() const;
  // Counts how often buffers have moved: a recorded graph of an older generation must not be replayed.
  int generation() const { return generation_; }

 private:
  struct Sizes {  // bytes
    std::size_t maps[2], partial, arrivals, input, results, weights, features, tables, total;
  };
  struct Hidden {
    int inputs, outputs;  // inputs with the padding of the last map's channels, for the first layer
    Activation activation;
    DeviceMemory weight, bias, output;  // output [max_batch][outputs]
  };
  struct PlanOnly {};
  static void upload_tables(Plan& plan);
  Network(const NetworkConfig& config, PlanOnly);
  ConvLayer layer_at(int block, int height, int width) const;
  Plan make_plan(int batch, int height, int width) const;
  void* map(int block) const { return maps_[block % 2].as<void>(); }  // output of block `block`
  bool head_pools(const Plan& plan) const;
  struct Weights {
    const void* data;
    int64_t bytes;
  };
  Weights next_weights(const Plan& plan, int block) const;
  void enqueue_head(const Plan& plan, const Io* io, Stream stream) const;
  void read_hidden(int images, int64_t row, const NetworkOutputs& outputs);
  MapParams map_params(const Plan& plan, int block, float* out) const;
  void read_block(const Plan& plan, int block, int images, int64_t row, int channel_base,
                  const NetworkOutputs& outputs);

  DeviceInfo device_;
  Precision precision_;
  int max_batch_, max_height_, max_width_, n_tags_, in_features_;
  Flatten flatten_;
  std::vector<ConvLayer> layers_;
  std::vector<DeviceMemory> weights_, epilogues_;
  std::vector<Hidden> hidden_;
  DeviceMemory head_weight_, head_bias_;
  DeviceMemory features_;  // of a global mean or maximum, [max_batch][channels, padded]; or empty
  DeviceMemory maps_[2], partial_, arrivals_, input_, scores_, logits_, io_;
  std::map<std::tuple<int, int, int>, Plan> plans_;
  Sizes sizes_{};
  std::unique_ptr<OwnStream> stream_;
  std::unique_ptr<Event> idle_;  // recorded when the last run has been enqueued
  bool used_ = false;
  int generation_ = 0;
};

// The smallest power of two that holds `batch`, but at most `max_batch`: batches in between share plans and graphs.
int batch_bucket(int batch, int max_batch);

// Claims a network's buffers for a stream, and releases them when it goes: also after an error on the way.
class Claim {
 public:
  Claim(Network& network, Stream stream) : network_(network), stream_(stream) { network_.claim(stream_); }
  ~Claim() {
    try {
      network_.release(stream_);
    } catch (const DeviceError&) {  // the device is lost: nothing will run
    }
  }
  Claim(const Claim&) = delete;
  Claim& operator=(const Claim&) = delete;

 private:
  Network& network_;
  Stream stream_;
};

// Writes `value` to device memory in stream order, as a kernel's parameter: no host memory has to outlive the call.
void set_io(Io* target, const Io& value, Stream stream);

}  // namespace cuda
}  // namespace fcntag
