#include "cpu/network.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>

#include "check.h"
#include "cpu/head.h"
#include "cpu/kernel_table.h"

namespace fcntag {
namespace {

// The first blocks have large maps and few weights: the images that go through them together are so few that a map is
// still in a cache when the next block reads it. The others have small maps and many weights: images go through them in
// larger groups, which share what is read of the weights.
constexpr std::size_t kMapFloats = std::size_t{1} << 19;   // of a group's maps, for every thread: 2 MB
constexpr std::size_t kDeepFloats = std::size_t{4} << 20;  // of a large group's maps: 16 MB
constexpr int kMaxGroup = 16;
constexpr std::size_t kDeepWeights = 12;  // times its input map: weights of the first of the others
// A tile of the first block's kernel may read past the end of the last row.
constexpr std::size_t kSlack = 64;

// Multiply-adds below which a loop is left to the caller: about 20 microseconds of one core, what it costs to call the
// others and wait for the last of them.
constexpr double kSerial = 1.5e6;
// Multiply-adds that take as long as the input transform of 16 channels of a tile.
constexpr double kTransform = 4000;

// Adds the time since the last stamp to an entry; free where nobody asks.
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

}  // namespace

Network::Network(const NetworkSpec& spec, Precision precision, Algorithm algorithm, std::shared_ptr<ThreadPool> pool)
    : isa_(choose_isa()),
      kernels_(kernels(isa_).conv_block),
      winograd_kernels_(winograd_kernels(isa_, precision)),
      pool_(std::move(pool)),
      flatten_(spec.head.flatten),
      in_features_(spec.head.in_features),
      n_tags_(spec.head.n_tags),
      max_height_(spec.height),
      max_width_(spec.width) {
  check_network(spec);
  const bool bfloat16 = precision == Precision::kBfloat16;
  FCNTAG_CHECK(bfloat16 || precision == Precision::kFloat32, "precision='", precision_name(precision),
               "' is not built for the CPU; built: float32, bfloat16");
  FCNTAG_CHECK(winograd_kernels_ != nullptr,
               "network: bfloat16 needs a CPU with AVX512_BF16; in use: ", isa_name(isa_));
  MapSize map_size = {spec.height, spec.width};
  for (const ConvBlockSpec& block : spec.blocks) {
    blocks_.push_back(pack_conv_block(block, *kernels_));
    const auto [h, w] = map_size;
    const bool wanted =
        algorithm == Algorithm::kWinograd || (algorithm == Algorithm::kAuto && winograd_pays(block, h, w));
    if (wanted && winograd_fits(block, h, w)) pack_winograd(block, bfloat16, blocks_.back());
    map_size = output_size(block, map_size);
  }
  const HeadSpec& head = spec.head;
  head_weight_.assign(head.weight, head.weight + static_cast<std::size_t>(head.n_tags) * head.in_features);
  head_bias_.assign(head.bias, head.bias + head.n_tags);
  features_.resize(in_features_);

  plan(spec.height, spec.width);
  plan_groups();
  for (std::size_t i = 0; i <= blocks_.size(); ++i) {
    maps_.emplace_back(map(i).image() * (i < deep_ ? group_ : deep_group_) + kSlack);
  }
  for (std::size_t i = 0; i < blocks_.size(); ++i) write_constants(i);
  for (int i = 0; i < pool_->threads(); ++i) scratch_.emplace_back();
  grow_scratch();
}

void Network::plan_groups() {
  const auto floats = [&](std::size_t first, std::size_t last) {
    std::size_t sum = 0;
    for (std::size_t i = first; i < last; ++i) sum += map(i).image();
    return std::max<std::size_t>(sum, 1);
  };
  const auto group = [](std::size_t images) { return static_cast<int>(std::clamp<std::size_t>(images, 1, kMaxGroup)); };
  deep_ = 1;
  while (deep_ < blocks_.size() && blocks_[deep_].weight.size() < kDeepWeights * map(deep_).image()) ++deep_;
  deep_group_ = group(kDeepFloats / floats(deep_, blocks_.size() + 1));
  group_ = std::min(group(kMapFloats * pool_->threads() / floats(0, deep_)), deep_group_);
}

void Network::plan(int height, int width) {
  FCNTAG_CHECK(height <= max_height_ && width <= max_width_, "network: input ", height, "x", width,
               " is larger than the ", max_height_, "x", max_width_, " it was planned for");
  std::vector<ConvBlockPlan> plans;
  std::vector<WinogradPlan> winograd(blocks_.size());
  int h = height, w = width;
  for (std::size_t i = 0; i < blocks_.size(); ++i) {
    const int border = i + 1 < blocks_.size() ? blocks_[i + 1].kernel / 2 : 0;
    plans.push_back(plan_conv_block(blocks_[i], h, w, border));
    if (blocks_[i].winograd) winograd[i] = plan_winograd(blocks_[i], plans[i].in, plans[i].out);
    if (i > 0) {  // a map is laid out for the block that reads it
      plans[i - 1].out.rows = plans[i].in.rows;
      plans[i - 1].out.cols = plans[i].in.cols;
    }
    h = plans.back().out.height;
    w = plans.back().out.width;
  }
  check_features(flatten_, in_features_, blocks_.back().out_channels, {h, w}, {height, width});
  plans_ = std::move(plans);
  winograd_ = std::move(winograd);
  height_ = height;
  width_ = width;
  for (AlignedBuffer& map : maps_) map.zero();  // the zero borders lie elsewhere now
  for (std::size_t i = 0; i < blocks_.size(); ++i) write_constants(i);
  grow_scratch();
}

// The channels that no task of a Winograd block computes.
void Network::write_constants(std::size_t index) {
  const PackedConvBlock& block = blocks_[index];
  if (maps_.empty() || !block.winograd) return;
  const MapLayout& out = plans_[index].out;
  const int images = index + 1 < deep_ ? group_ : deep_group_;
  std::vector<float> values(static_cast<std::size_t>(block.k_blocks) * block.k_block);
  FlushDenormals flush;  // as the kernels run
  winograd_kernels_->constants(block, values.data());
  for (int c = block.computed_channels; c < block.out_channels; ++c) {
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

void Network::grow_scratch() {
  std::size_t scratch = 0, shared = 0;
  for (std::size_t i = 0; i < blocks_.size(); ++i) {
    const WinogradPlan& w = winograd_[i];
    if (!blocks_[i].winograd) {
      scratch = std::max(scratch, plans_[i].scratch);
    } else if (w.share_tiles) {
      scratch = std::max(scratch, w.m_floats);
      shared = std::max(shared, w.v_floats);
    } else {
      scratch = std::max(scratch, w.v_floats + w.m_floats);
    }
  }
  for (AlignedBuffer& buffer : scratch_) {
    if (buffer.size() < scratch) buffer = AlignedBuffer(scratch);
  }
  if (shared_.size() < shared) shared_ = AlignedBuffer(shared);
}

std::vector<MapLayout> Network::map_sizes(int height, int width) const {
  std::vector<MapLayout> sizes;
  for (const PackedConvBlock& block : blocks_) {
    sizes.push_back(plan_conv_block(block, height, width, 0).out);
    height = sizes.back().height;
    width = sizes.back().width;
  }
  return sizes;
}

const MapLayout& Network::map(std::size_t index) const { return index == 0 ? plans_[0].in : plans_[index - 1].out; }

std::vector<Algorithm> Network::algorithms() const {
  std::vector<Algorithm> used;
  for (const PackedConvBlock& block : blocks_)
    used.push_back(block.winograd ? Algorithm::kWinograd : Algorithm::kDirect);
  return used;
}

int Network::block_channels() const {
  int channels = 0;
  for (const PackedConvBlock& block : blocks_) channels += block.out_channels;
  return channels;
}

std::size_t Network::memory_bytes() const {
  std::size_t bytes = (head_weight_.size() + head_bias_.size() + features_.size()) * sizeof(float);
  for (const PackedConvBlock& block : blocks_) bytes += block.bytes();
  for (const AlignedBuffer& map : maps_) bytes += map.bytes();
  for (const AlignedBuffer& buffer : scratch_) bytes += buffer.bytes();
  bytes += shared_.bytes();
  return bytes;
}

void Network::loop(int64_t count, double multiply_adds, const std::function<void(int64_t, int)>& task) {
  if (multiply_adds < kSerial) {
    for (int64_t i = 0; i < count; ++i) task(i, 0);
  } else {
    pool_->run(count, task);
  }
}

void Network::run_winograd(std::size_t index, int images, int out_image) {
  const PackedConvBlock& block = blocks_[index];
  const WinogradPlan& plan = winograd_[index];
  WinogradTask base{};
  base.weights = &block;
  base.plan = &plan;
  base.in = plans_[index].in;
  base.out = plans_[index].out;
  base.x = maps_[index].data() + base.in.origin();
  base.y = maps_[index + 1].data() + out_image * base.out.image() + base.out.origin();
  const int c_blocks = static_cast<int>(base.in.blocks());
  const int units = images * plan.units();
  const int k_blocks = (block.computed_channels + block.k_block - 1) / block.k_block;
  // Equal blocks: a short last one would read all weights for a few tiles. And, where they are few, as many for every
  // thread.
  int unit_blocks = (units + plan.block_units - 1) / plan.block_units;
  const int threads = pool_->threads();
  if (!plan.share_tiles && unit_blocks < 8 * threads) {
    unit_blocks = std::min((unit_blocks + threads - 1) / threads * threads, units);
  }
  const auto with_units = [&](WinogradTask task, int64_t i) {
    task.unit_begin = static_cast<int>(units * i / unit_blocks);
    task.unit_end = static_cast<int>(units * (i + 1) / unit_blocks);
    task.item_begin = 0;
    task.item_end = (task.unit_end - task.unit_begin) * plan.unit_tiles() * c_blocks;
    return task;
  };
  const double multiply_adds =
      1.0 * units * plan.unit_tiles() * kWinogradPoints * block.in_channels * block.out_channels;
  if (!plan.share_tiles) {
    loop(unit_blocks, multiply_adds, [&](int64_t i, int worker) {
      WinogradTask task = with_units(base, i);
      task.v = scratch_[worker].data();
      task.m = task.v + plan.v_floats;
      winograd_kernels_->transform(task);
      for (task.k_block = 0; task.k_block < k_blocks; ++task.k_block) winograd_kernels_->multiply(task);
    });
    return;
  }
  for (int i = 0; i < unit_blocks; ++i) {
    WinogradTask all = with_units(base, i);
    all.v = shared_.data();
    constexpr int kItems = 16;
    loop((all.item_end + kItems - 1) / kItems, kTransform * all.item_end, [&](int64_t j, int) {
      WinogradTask task = all;
      task.item_begin = static_cast<int>(j) * kItems;
      task.item_end = std::min(task.item_begin + kItems, all.item_end);
      winograd_kernels_->transform(task);
    });
    loop(k_blocks, multiply_adds / unit_blocks, [&](int64_t k, int worker) {
      WinogradTask task = all;
      task.k_block = static_cast<int>(k);
      task.m = scratch_[worker].data();
      winograd_kernels_->multiply(task);
    });
  }
}

// Images [0, images) of the block's input map to images [out_image, ...) of its output map.
void Network::run_block(std::size_t index, int images, int out_image) {
  if (blocks_[index].winograd) return run_winograd(index, images, out_image);
  const PackedConvBlock& block = blocks_[index];
  const ConvBlockPlan& plan = plans_[index];
  const float* x = maps_[index].data();
  float* y = maps_[index + 1].data();
  const int64_t strips = static_cast<int64_t>(images) * plan.strips;
  const double multiply_adds = 1.0 * images * plan.out.height * block.pool_h * plan.out.width * block.pool_w *
                               block.in_channels * block.out_channels * block.kernel * block.kernel;
  // Output channels are the outer loop: the weights of a task are still in a cache when the next strip takes them.
  loop(strips * block.k_blocks, multiply_adds, [&](int64_t i, int worker) {
    const int64_t strip = i % strips;
    const int64_t image = strip / plan.strips;
    ConvBlockTask task;
    task.weights = &block;
    task.in = plan.in;
    task.out = plan.out;
    task.x = x + image * plan.in.image() + plan.in.origin();
    task.y = y + (out_image + image) * plan.out.image() + plan.out.origin();
    task.k_block = static_cast<int>(i / strips);
    task.row_begin = static_cast<int>(strip % plan.strips) * plan.strip_rows;
    task.row_end = std::min(task.row_begin + plan.strip_rows, plan.out.height);
    task.chunk_cols = plan.chunk_cols;
    task.scratch = scratch_[worker].data();
    (block.in_channels == 1 ? kernels_->conv_first : kernels_->conv)(task);
  });
}

void Network::run(const float* x, int batch, int height, int width, const NetworkOutputs& outputs) {
  FCNTAG_CHECK(batch >= 0, "network: batch=", batch);
  FCNTAG_CHECK(outputs.blocks.empty() || outputs.blocks.size() == blocks_.size(), "network: ", outputs.blocks.size(),
               " block outputs for ", blocks_.size(), " blocks");
  if (height != height_ || width != width_) plan(height, width);
  Stopwatch clock(outputs.seconds);
  FlushDenormals flush;
  for (int begin = 0; begin < batch; begin += deep_group_) {
    const int images = std::min(deep_group_, batch - begin);
    for (int first = 0; first < images; first += group_) {
      const int some = std::min(group_, images - first);
      for (int i = 0; i < some; ++i) copy_input(x + (static_cast<int64_t>(begin) + first + i) * height * width, i);
      clock.stamp(blocks_.size());
      for (std::size_t b = 0; b < deep_; ++b) {
        run_block(b, some, b + 1 == deep_ ? first : 0);
        clock.stamp(b);
      }
      for (int i = 0; i < some; ++i) read_outputs(0, deep_ - 1, i, begin + first + i, outputs);
      clock.stamp(blocks_.size());
    }
    for (std::size_t b = deep_; b < blocks_.size(); ++b) {
      run_block(b, images, 0);
      clock.stamp(b);
    }
    for (int i = 0; i < images; ++i) read_outputs(deep_ - 1, blocks_.size(), i, begin + i, outputs);
    clock.stamp(blocks_.size());
  }
}

// x [height_, width_] to image `image` of the first map, which keeps its border.
void Network::copy_input(const float* x, int image) {
  const MapLayout& in = plans_[0].in;
  float* map = maps_[0].data() + image * in.image() + in.origin();
  for (int row = 0; row < height_; ++row) {
    std::memcpy(map + row * in.row(), x + static_cast<int64_t>(row) * width_, width_ * sizeof(float));
  }
}

// Results of blocks [first, last), and of the head behind the last one, for the image `image` of their maps, which is
// row `row` of the batch.
void Network::read_outputs(std::size_t first, std::size_t last, int image, int64_t row, const NetworkOutputs& outputs) {
  int channel_base = 0;
  for (std::size_t b = 0; b < last; ++b) {
    const MapLayout& map = plans_[b].out;
    const bool to_head = b + 1 == blocks_.size();
    const int64_t area = static_cast<int64_t>(map.height) * map.width;
    channel_base += b == 0 ? 0 : plans_[b - 1].out.channels;
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
          if (to_head && flatten_ == Flatten::kChw) features_[c * area + at] = v;
          if (to_head && flatten_ == Flatten::kHwc) features_[at * map.channels + c] = v;
        }
      }
      if (to_head && flatten_ == Flatten::kMax) features_[c] = maximum;
      if (means != nullptr) means[channel_base + c] = static_cast<float>(sum / static_cast<double>(area));
    }
  }
  if (last < blocks_.size()) return;
  if (outputs.features != nullptr) {
    std::memcpy(outputs.features + row * in_features_, features_.data(), in_features_ * sizeof(float));
  }
  if (outputs.scores != nullptr) {
    dense_sigmoid(features_.data(), head_weight_.data(), head_bias_.data(), in_features_, n_tags_,
                  outputs.scores + row * n_tags_, outputs.logits == nullptr ? nullptr : outputs.logits + row * n_tags_);
  }
}

}  // namespace fcntag
