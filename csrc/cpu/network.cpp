#include "cpu/network.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>

#include "check.h"

namespace fcntag {
namespace {

// Floats behind every map: a tile of the first block's kernel may read past the end of the last row.
constexpr std::size_t kSlack = 64;
// A hidden layer may have as many weights as all blocks together: so many images share one reading of them.
constexpr int kHeadImages = 64;

// Adds the time since the last stamp to an entry. It costs nothing where nobody asks for times.
class Stopwatch {
 public:
  explicit Stopwatch(double* seconds) : seconds_(seconds) {
    if (seconds_ != nullptr) last_ = Clock::now();
  }
  void stamp(std::size_t entry) {
    if (seconds_ == nullptr) return;
    const Clock::time_point now = Clock::now();
    seconds_[entry] += std::chrono::duration<double>(now - last_).count();
    last_ = now;
  }

 private:
  using Clock = std::chrono::steady_clock;
  double* seconds_;
  Clock::time_point last_;
};

// x [images][x_row floats] -> rows [row, row + images) of y [..][count].
void copy_rows(const float* x, int64_t x_row, int images, int count, float* y, int64_t row) {
  for (int i = 0; i < images; ++i) std::memcpy(y + (row + i) * count, x + i * x_row, count * sizeof(float));
}

}  // namespace

Network::Network(const NetworkSpec& spec, Precision precision, Algorithm algorithm, std::shared_ptr<ThreadPool> pool)
    : isa_(choose_isa()),
      kernels_(&kernels(isa_)),
      winograd_kernels_(winograd_kernels(isa_, precision)),
      workers_(std::move(pool)),
      flatten_(spec.head.flatten),
      in_features_(spec.head.in_features),
      n_tags_(spec.head.n_tags),
      largest_{spec.height, spec.width} {
  check_network(spec);
  FCNTAG_CHECK(precision == Precision::kFloat32 || precision == Precision::kBfloat16, "precision='",
               precision_name(precision), "' is not built for the CPU; built: float32, bfloat16");
  FCNTAG_CHECK(winograd_kernels_ != nullptr,
               "network: bfloat16 needs a CPU with AVX512_BF16; in use: ", isa_name(isa_));
  planned_ = plan_blocks(spec, precision, algorithm, kernels_->conv_first->k_block, kernels_->conv_block->k_block);
  for (std::size_t i = 0; i < planned_.size(); ++i) {
    const int k_block = planned_[i].k_block;
    blocks_.push_back(planned_[i].algorithm == Algorithm::kWinograd
                          ? pack_winograd(spec.blocks[i], k_block, precision == Precision::kBfloat16)
                          : pack_direct(spec.blocks[i], k_block, planned_[i].plain));
  }
  const HeadSpec& head = spec.head;
  head_weight_.assign(head.weight, head.weight + static_cast<std::size_t>(head.n_tags) * head.last_features());
  head_bias_.assign(head.bias, head.bias + head.n_tags);
  const NetworkPlan plan = plan_network(planned_, largest_);
  groups_ = plan_groups(planned_, plan, workers_.threads());
  // Whole groups of the deep blocks: one more must fit in behind the first kHeadImages - 1.
  head_images_ = head.hidden.empty() ? groups_.deep_images : kHeadImages - 1 + groups_.deep_images;
  features_.resize(static_cast<std::size_t>(head_images_) * in_features_);
  logits_.resize(static_cast<std::size_t>(head_images_) * n_tags_);
  for (const DenseSpec& layer : head.hidden) {
    hidden_.push_back(pack_dense(layer, kernels_->dense->block));
    hidden_outputs_.emplace_back(static_cast<std::size_t>(head_images_) * hidden_.back().padded());
  }
  for (std::size_t i = 0; i <= blocks_.size(); ++i) {
    maps_.emplace_back(plan.map(i).image() * (i < groups_.deep ? groups_.images : groups_.deep_images) + kSlack);
  }
  this->plan(largest_);
}

NetworkPlan Network::plan_for(MapSize input) const {
  FCNTAG_CHECK(input.height <= largest_.height && input.width <= largest_.width, "network: input ", input.height, "x",
               input.width, " is larger than the ", largest_.height, "x", largest_.width, " it was planned for");
  NetworkPlan plan = plan_network(planned_, input);
  const MapLayout& last = plan.blocks.back().out;
  check_features(flatten_, in_features_, last.channels, {last.height, last.width}, input);
  return plan;
}

// Lays the maps out for an input size.
void Network::plan(MapSize input) {
  plan_ = plan_for(input);
  const bool fresh = input_.height == 0;
  input_ = input;
  if (!fresh) {  // the zero borders lie elsewhere now
    for (AlignedBuffer& map : maps_) map.zero();
  }
  for (std::size_t i = 0; i < blocks_.size(); ++i) write_constants(i);
  workers_.reserve(plan_.scratch_floats, plan_.shared_floats);
}

// Writes the channels that no task of a Winograd block computes.
void Network::write_constants(std::size_t index) {
  const PackedConvBlock& block = blocks_[index];
  const WinogradWeights* weights = std::get_if<WinogradWeights>(&block.weights);
  if (weights == nullptr || weights->computed_channels == block.out_channels) return;
  const MapLayout& out = plan_.blocks[index].out;
  const int images = index + 1 < groups_.deep ? groups_.images : groups_.deep_images;
  std::vector<float> values(static_cast<std::size_t>(block.k_blocks) * block.k_block);
  FlushDenormals flush;  // as the kernels run
  winograd_kernels_->constants(block, values.data());
  for (int c = weights->computed_channels; c < block.out_channels; ++c) {
    for (int image = 0; image < images; ++image) {
      float* channel = maps_[index + 1].data() + image * out.image() + out.origin() + c / kChannelBlock * out.block() +
                       c % kChannelBlock;
      for (int y = 0; y < out.height; ++y) {
        for (int x = 0; x < out.width; ++x)
          channel[y * out.row() + static_cast<int64_t>(x) * kChannelBlock] = values[c];
      }
    }
  }
}

WindowCode Network::window_code(std::size_t block) const {
  const PlannedBlock& planned = planned_[block];
  const bool winograd = planned.algorithm == Algorithm::kWinograd;
  if (!winograd && !planned.plain) return WindowCode::kOnly;
  const bool built = (winograd ? winograd_kernels_->is_built : kernels_->conv_first->is_built)(planned);
  return built ? WindowCode::kBuilt : WindowCode::kGeneral;
}

std::vector<int> Network::hidden_features() const {
  std::vector<int> features;
  for (const PackedDense& layer : hidden_) features.push_back(layer.out_features);
  return features;
}

int Network::block_channels() const {
  int channels = 0;
  for (const PackedConvBlock& block : blocks_) channels += block.out_channels;
  return channels;
}

std::size_t Network::memory_bytes() const {
  std::size_t bytes = (head_weight_.size() + head_bias_.size() + features_.size()) * sizeof(float);
  bytes += logits_.size() * sizeof(double);
  for (const PackedConvBlock& block : blocks_) bytes += block.bytes();
  for (const AlignedBuffer& map : maps_) bytes += map.bytes();
  for (const PackedDense& layer : hidden_) bytes += layer.bytes();
  for (const AlignedBuffer& output : hidden_outputs_) bytes += output.bytes();
  return bytes + workers_.bytes();
}

// Computes images [out_image, out_image + images) of the block's output map from images [0, images) of its input map.
void Network::run_block(std::size_t index, int images, int out_image) {
  const BlockPlan& plan = plan_.blocks[index];
  const PackedConvBlock& block = blocks_[index];
  const float* x = maps_[index].data() + plan.in.origin();
  float* y = maps_[index + 1].data() + out_image * plan.out.image() + plan.out.origin();
  const BlockRun run = {plan.in, plan.out, x, y, images};
  if (const WinogradPlan* winograd = std::get_if<WinogradPlan>(&plan.tiling)) {
    run_winograd(*winograd_kernels_, block, *winograd, run, workers_);
  } else {
    const ConvBlockKernel kernel = plan.in.plain ? kernels_->conv_first->run : kernels_->conv_block->run;
    run_direct(kernel, block, std::get<DirectPlan>(plan.tiling), run, workers_);
  }
}

void Network::run(const float* x, int batch, int height, int width, const NetworkOutputs& outputs) {
  FCNTAG_CHECK(batch >= 0, "network: batch=", batch);
  FCNTAG_CHECK(outputs.blocks.empty() || outputs.blocks.size() == blocks_.size(), "network: ", outputs.blocks.size(),
               " block outputs for ", blocks_.size(), " blocks");
  if (height != input_.height || width != input_.width) plan({height, width});
  Stopwatch clock(outputs.seconds);
  FlushDenormals flush;
  int waiting = 0;  // images whose features are there, and whose dense layers are not
  for (int begin = 0; begin < batch; begin += groups_.deep_images) {
    const int images = std::min(groups_.deep_images, batch - begin);
    for (int first = 0; first < images; first += groups_.images) {
      const int some = std::min(groups_.images, images - first);
      for (int i = 0; i < some; ++i) copy_input(x + (static_cast<int64_t>(begin) + first + i) * height * width, i);
      clock.stamp(blocks_.size());
      for (std::size_t b = 0; b < groups_.deep; ++b) {
        run_block(b, some, b + 1 == groups_.deep ? first : 0);
        clock.stamp(b);
      }
      for (int i = 0; i < some; ++i) read_outputs(0, groups_.deep - 1, i, begin + first + i, nullptr, outputs);
      clock.stamp(blocks_.size());
    }
    for (std::size_t b = groups_.deep; b < blocks_.size(); ++b) {
      run_block(b, images, 0);
      clock.stamp(b);
    }
    for (int i = 0; i < images; ++i) {
      float* features = features_.data() + static_cast<int64_t>(waiting + i) * in_features_;
      read_outputs(groups_.deep - 1, blocks_.size(), i, begin + i, features, outputs);
    }
    waiting += images;
    if (waiting + groups_.deep_images > head_images_ || begin + images == batch) {
      run_head(waiting, begin + images - waiting, outputs);
      waiting = 0;
    }
    clock.stamp(blocks_.size());
  }
}

// Copies x [height, width] to image `image` of the first map, and leaves its border alone.
void Network::copy_input(const float* x, int image) {
  const MapLayout& in = plan_.blocks[0].in;
  float* map = maps_[0].data() + image * in.image() + in.origin();
  for (int row = 0; row < input_.height; ++row) {
    std::memcpy(map + row * in.row(), x + static_cast<int64_t>(row) * input_.width, input_.width * sizeof(float));
  }
}

// Reads the results of blocks [first, last), and writes the head's `features` of the last one. Image `image` of their
// maps is row `row` of the batch.
void Network::read_outputs(std::size_t first, std::size_t last, int image, int64_t row, float* features,
                           const NetworkOutputs& outputs) {
  int channel_base = 0;
  for (std::size_t b = 0; b < last; ++b) {
    const MapLayout& map = plan_.blocks[b].out;
    const bool to_head = b + 1 == blocks_.size();
    const int64_t area = static_cast<int64_t>(map.height) * map.width;
    channel_base += b == 0 ? 0 : plan_.blocks[b - 1].out.channels;
    if (b < first) continue;
    const float* origin = maps_[b + 1].data() + image * map.image() + map.origin();
    float* plain = outputs.blocks.empty() ? nullptr : outputs.blocks[b];
    float* means = outputs.block_means == nullptr ? nullptr : outputs.block_means + row * block_channels();
    if (plain == nullptr && means == nullptr && !to_head) continue;
    for (int c = 0; c < map.channels; ++c) {
      const float* channel = origin + c / kChannelBlock * map.block() + c % kChannelBlock;
      double sum = 0;
      float maximum = channel[0];
      for (int y = 0; y < map.height; ++y) {
        for (int x = 0; x < map.width; ++x) {
          const float v = channel[y * map.row() + static_cast<int64_t>(x) * kChannelBlock];
          const int64_t at = static_cast<int64_t>(y) * map.width + x;
          sum += v;
          maximum = std::max(maximum, v);
          if (plain != nullptr) plain[(row * map.channels + c) * area + at] = v;
          if (to_head && flatten_ == Flatten::kChw) features[c * area + at] = v;
          if (to_head && flatten_ == Flatten::kHwc) features[at * map.channels + c] = v;
        }
      }
      if (to_head && flatten_ == Flatten::kMax) features[c] = maximum;
      if (to_head && flatten_ == Flatten::kMean) features[c] = static_cast<float>(sum / static_cast<double>(area));
      if (means != nullptr) means[channel_base + c] = static_cast<float>(sum / static_cast<double>(area));
    }
  }
}

// Dense layers and outputs of `images` rows of features; the first is row `row` of the batch.
void Network::run_head(int images, int64_t row, const NetworkOutputs& outputs) {
  const float* x = features_.data();
  int64_t x_row = in_features_;
  for (std::size_t i = 0; i < hidden_.size(); ++i) {
    run_dense(*kernels_->dense, hidden_[i], x, x_row, images, hidden_outputs_[i].data(), workers_);
    x = hidden_outputs_[i].data();
    x_row = hidden_[i].padded();
    if (!outputs.hidden.empty()) copy_rows(x, x_row, images, hidden_[i].out_features, outputs.hidden[i], row);
  }
  const int count = last_features();
  if (outputs.features != nullptr) copy_rows(x, x_row, images, count, outputs.features, row);
  LogitsTask task{head_weight_.data(), head_bias_.data(), x, logits_.data(), x_row, count, n_tags_, 0, n_tags_, images};
  run_logits(*kernels_->dense, task, workers_);
  for (int64_t i = 0; i < static_cast<int64_t>(images) * n_tags_; ++i) {
    const int64_t at = row * n_tags_ + i;
    if (outputs.logits != nullptr) outputs.logits[at] = static_cast<float>(logits_[i]);
    if (outputs.scores != nullptr) outputs.scores[at] = static_cast<float>(1.0 / (1.0 + std::exp(-logits_[i])));
  }
}

}  // namespace fcntag
