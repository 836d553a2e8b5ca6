#include "cuda/network.h"

#include <algorithm>
#include <limits>
#include <sstream>

#include "check.h"
#include "cuda/conv/conv_pack.h"
#include "cuda/launch.h"
#include "cuda/upload.h"

namespace fcntag {
namespace cuda {

namespace {

constexpr int kMaxBatch = 4096;

// map [channels][positions] -> features in the model's order.
void flatten(const float* map, int channels, int positions, Flatten order, float* features) {
  for (int c = 0; c < channels; ++c) {
    const float* row = map + static_cast<std::size_t>(c) * positions;
    if (order == Flatten::kMax) {
      features[c] = *std::max_element(row, row + positions);
      continue;
    }
    if (order == Flatten::kMean) {
      double sum = 0;
      for (int i = 0; i < positions; ++i) sum += row[i];
      features[c] = static_cast<float>(sum / positions);
      continue;
    }
    for (int i = 0; i < positions; ++i)
      features[order == Flatten::kChw ? c * positions + i : i * channels + c] = row[i];
  }
}

std::string megabytes(std::size_t bytes) { return std::to_string((bytes + (1 << 20) - 1) >> 20) + " MB"; }

}  // namespace

int batch_bucket(int batch, int max_batch) {
  int bucket = 1;
  while (bucket < batch) bucket *= 2;
  return std::min(bucket, max_batch);
}

Network::Network(const NetworkConfig& config, PlanOnly)
    : precision_(config.precision),
      max_batch_(config.max_batch),
      max_height_(config.spec.height),
      max_width_(config.spec.width),
      n_tags_(config.spec.head.n_tags),
      in_features_(config.spec.head.in_features),
      flatten_(config.spec.head.flatten) {
  check_network(config.spec);
  FCNTAG_CHECK(max_batch_ >= 1 && max_batch_ <= kMaxBatch, "network: max_batch=", max_batch_,
               "; allowed on a GPU: 1 to ", kMaxBatch);
  device_ = device_info(config.device);
  const int needed = precision_ == Precision::kFloat32 || precision_ == Precision::kFloat16 ? 75 : 80;
  if (device_.major * 10 + device_.minor < needed) {
    std::ostringstream text;
    text << "precision='" << precision_name(precision_) << "' needs a GPU of compute capability " << needed / 10 << "."
         << needed % 10 << "; " << device_.name << " has " << device_.major << "." << device_.minor;
    throw DeviceError(text.str());
  }
  for (const ConvBlockSpec& block : config.spec.blocks) {
    const bool last = &block == &config.spec.blocks.back();
    // The head reads float32: the last map is small, and nothing is gained by rounding it.
    const Storage storage = last ? Storage::kFloat32 : map_storage(precision_);
    layers_.push_back({block, 0, 0, precision_, storage});
  }

  const ConvLayer& last = layers_.back();
  const int stride = padded_channels(last.out_channels, last.storage);
  const int places = is_global(flatten_) ? 1 : in_features_ / last.out_channels;
  FCNTAG_CHECK(places <= std::numeric_limits<int>::max() / stride, "network: a head of ", in_features_,
               " features is too large for a GPU");
  for (const DenseSpec& layer : config.spec.head.hidden) {
    Hidden hidden;
    hidden.inputs = hidden_.empty() ? places * stride : layer.in_features;
    hidden.outputs = layer.out_features;
    hidden.activation = layer.activation;
    sizes_.features += static_cast<std::size_t>(max_batch_) * hidden.outputs * sizeof(float);
    sizes_.weights += (packed_dense_floats(hidden.inputs, hidden.outputs) + hidden.outputs) * sizeof(float);
    hidden_.push_back(std::move(hidden));
  }
  if (is_global(flatten_)) sizes_.features += static_cast<std::size_t>(max_batch_) * stride * sizeof(float);

  for (int batch = 1;; batch = batch_bucket(batch + 1, max_batch_)) {
    const std::tuple key(batch, max_height_, max_width_);
    const Plan& plan = plans_.emplace(key, make_plan(batch, max_height_, max_width_)).first->second;
    for (const ConvPlan& block : plan.blocks) {
      sizes_.partial = std::max(sizes_.partial, block.partial_bytes);
      sizes_.arrivals = std::max(sizes_.arrivals, block.arrivals() * sizeof(int));
      sizes_.tables += block.tables.size();
    }
    for (int i = 0; i < n_blocks(); ++i) {
      const auto [h, w] = plan.sizes[i + 1];
      const std::size_t bytes = static_cast<std::size_t>(batch) * h * w *
                                padded_channels(layers_[i].out_channels, layers_[i].storage) *
                                storage_bytes(layers_[i].storage);
      sizes_.maps[i % 2] = std::max(sizes_.maps[i % 2], bytes);
    }
    if (batch == max_batch_) break;
  }
  sizes_.input = static_cast<std::size_t>(max_batch_) * max_height_ * max_width_ * sizeof(float);
  sizes_.results = static_cast<std::size_t>(max_batch_) * n_tags_ * sizeof(float);
  for (int i = 0; i < n_blocks(); ++i) {
    const ConvLayer& layer = layers_[i];
    const std::size_t taps = static_cast<std::size_t>(layer.kernel) * layer.kernel;
    const std::size_t row = i == 0 ? 9 * sizeof(float) : layer.channel_blocks() * taps * kBlockBytes;
    sizes_.weights += layer.n_padded() * (row + 4 * sizeof(float)) + (i == 0 ? 0 : kLargestTile * kBlockBytes);
  }
  sizes_.weights += static_cast<std::size_t>(last_features() + 1) * n_tags_ * sizeof(float);
  sizes_.total = sizes_.maps[0] + sizes_.maps[1] + sizes_.partial + sizes_.arrivals + sizes_.input +
                 2 * sizes_.results + sizes_.weights + sizes_.features + sizes_.tables + sizeof(Io);
}

std::size_t Network::planned_bytes(const NetworkConfig& config) { return Network(config, PlanOnly{}).sizes_.total; }

Network::Network(const NetworkConfig& config) : Network(config, PlanOnly{}) {
  const DeviceScope scope(device_.index);
  const std::size_t available = free_memory();
  if (sizes_.total > available) {
    throw DeviceError("not enough memory on the device: max_batch=" + std::to_string(max_batch_) + " needs " +
                      megabytes(sizes_.total) + ", " + megabytes(available) + " of " + device_.name +
                      " are free; lower max_batch");
  }
  for (std::size_t i = 0; i < config.spec.blocks.size(); ++i) {
    if (i == 0) {
      const PackedFirst packed = pack_first(config.spec.blocks[0], precision_);
      weights_.push_back(upload(packed.weight));
      epilogues_.push_back(upload(packed.epilogue));
    } else {
      weights_.push_back(upload(pack_conv_weights(config.spec.blocks[i], precision_)));
      epilogues_.push_back(upload(pack_epilogue(config.spec.blocks[i])));
    }
  }
  for (auto& [key, plan] : plans_) upload_tables(plan);
  const auto [h, w] = plans_.begin()->second.sizes.back();
  const ConvLayer& last = layers_.back();
  const HeadSpec& head = config.spec.head;
  const int stride = padded_channels(last.out_channels, last.storage);
  const auto pack_first_dense = [&](const float* weight, int outputs) {
    return pack_head_weights(weight, outputs, last.out_channels, stride, h * w, flatten_);
  };
  for (std::size_t i = 0; i < hidden_.size(); ++i) {
    const DenseSpec& layer = head.hidden[i];
    const std::size_t size = static_cast<std::size_t>(layer.out_features) * layer.in_features;
    const std::vector<float> weight = i == 0 ? pack_first_dense(layer.weight, layer.out_features)
                                             : std::vector<float>(layer.weight, layer.weight + size);
    hidden_[i].weight = upload(pack_dense_weights(weight, hidden_[i].inputs, hidden_[i].outputs));
    hidden_[i].bias = upload(std::vector<float>(layer.bias, layer.bias + layer.out_features));
    hidden_[i].output = DeviceMemory(static_cast<std::size_t>(max_batch_) * layer.out_features * sizeof(float));
  }
  if (is_global(flatten_)) features_ = DeviceMemory(static_cast<std::size_t>(max_batch_) * stride * sizeof(float));
  const std::size_t size = static_cast<std::size_t>(n_tags_) * last_features();
  head_weight_ = upload(hidden_.empty() ? pack_first_dense(head.weight, n_tags_)
                                        : std::vector<float>(head.weight, head.weight + size));
  head_bias_ = upload(std::vector<float>(head.bias, head.bias + n_tags_));
  for (int i = 0; i < 2; ++i) maps_[i] = DeviceMemory(sizes_.maps[i]);
  partial_ = DeviceMemory(sizes_.partial);
  arrivals_ = upload(std::vector<int>(sizes_.arrivals / sizeof(int)));
  input_ = DeviceMemory(sizes_.input);
  scores_ = DeviceMemory(sizes_.results);
  logits_ = DeviceMemory(sizes_.results);
  io_ = DeviceMemory(sizeof(Io));
  stream_ = std::make_unique<OwnStream>();
  idle_ = std::make_unique<Event>(false);
}

std::vector<std::pair<int, int>> Network::sizes(int height, int width) const {
  std::vector<std::pair<int, int>> sizes = {{height, width}};
  for (int i = 0; i < n_blocks(); ++i) {
    const auto [h, w] = sizes.back();
    const MapSize out = output_size(layers_[i], {h, w});
    sizes.emplace_back(out.height, out.width);
  }
  return sizes;
}

ConvLayer Network::layer_at(int block, int height, int width) const {
  ConvLayer layer = layers_[block];
  layer.height = height;
  layer.width = width;
  return layer;
}

Network::Plan Network::make_plan(int batch, int height, int width) const {
  Plan plan{batch, height, width, {}, {}, {}, sizes(height, width)};
  const auto [h, w] = plan.sizes.back();
  check_features(flatten_, in_features_, layers_.back().out_channels, {h, w}, {height, width});
  plan.first = plan_first(layer_at(0, height, width), batch, device_);
  for (int i = 1; i < n_blocks(); ++i) {
    plan.blocks.push_back(plan_conv(layer_at(i, plan.sizes[i].first, plan.sizes[i].second), batch, device_));
  }
  return plan;
}

void Network::upload_tables(Plan& plan) {
  for (const ConvPlan& block : plan.blocks) plan.tables.push_back(upload(block.tables));
}

const Network::Plan& Network::plan(int batch, int height, int width) {
  FCNTAG_CHECK(batch >= 1 && batch <= max_batch_, "network: batch=", batch, "; planned for 1 to ", max_batch_);
  FCNTAG_CHECK(height <= max_height_ && width <= max_width_, "network: input ", height, "x", width,
               " is larger than the ", max_height_, "x", max_width_, " it was planned for");
  const std::tuple key(batch_bucket(batch, max_batch_), height, width);
  auto found = plans_.find(key);
  if (found == plans_.end()) {
    const DeviceScope scope(device_.index);
    Plan plan = make_plan(std::get<0>(key), height, width);
    upload_tables(plan);
    std::size_t partial = 0, arrivals = 0;
    for (const ConvPlan& block : plan.blocks) {
      partial = std::max(partial, block.partial_bytes);
      arrivals = std::max(arrivals, block.arrivals());
    }
    // A smaller map may split its sums where a larger one does not.
    if (partial > partial_.bytes() || arrivals * sizeof(int) > arrivals_.bytes()) {
      if (partial > partial_.bytes()) partial_ = DeviceMemory(partial);
      if (arrivals * sizeof(int) > arrivals_.bytes()) arrivals_ = upload(std::vector<int>(arrivals));
      ++generation_;
    }
    found = plans_.emplace(key, std::move(plan)).first;
  }
  return found->second;
}

// What a block brings to the second-level cache while it computes: the weights that the launch after it reads first.
// Launches of more tiles than run at a time read their weights again and again, so that the first reading does not
// matter, and last long enough to lose from the cache what was fetched for later. Half of the cache is left to the
// maps.
Network::Weights Network::next_weights(const Plan& plan, int block) const {
  const auto is_short = [&](int i) {
    return i == 0 || plan.blocks[i - 1].ctas < 2u * static_cast<unsigned>(device_.multiprocessors);
  };
  const bool last = block + 1 == n_blocks();
  if (!is_short(block) || (!last && !is_short(block + 1))) return {nullptr, 0};
  const DeviceMemory& next = !last ? weights_[block + 1] : hidden_.empty() ? head_weight_ : hidden_.front().weight;
  return {next.as<void>(), static_cast<int64_t>(std::min(next.bytes(), device_.cache_bytes / 2))};
}

void Network::enqueue(const Plan& plan, const InputView& x, const Io* io, int begin, int end, Stream stream) const {
  for (int i = begin; i < std::min(end, n_blocks()); ++i) {
    const Weights next = next_weights(plan, i);
    if (i == 0) {
      FirstParams params = plan.first.params;
      params.x = x.data;
      params.image_stride = x.image_stride;
      params.row_stride = x.row_stride;
      params.finish = x.finish;
      params.weight = weights_[0].as<void>();
      params.epilogue = epilogues_[0].as<float>();
      params.y = map(0);
      params.io = io;
      params.next_weight = next.data;
      params.next_bytes = next.bytes;
      launch(plan.first.kernel, {plan.first.grid, kFirstThreads, plan.first.shared_bytes}, stream, params);
      continue;
    }
    const ConvPlan& block = plan.blocks[i - 1];
    ConvParams params = bind_tables(block, plan.tables[i - 1].as<void>());
    params.x = map(i - 1);
    params.weight = weights_[i].as<void>();
    params.epilogue = epilogues_[i].as<float>();
    params.y = map(i);
    params.partial = partial_.as<float>();
    params.arrivals = arrivals_.as<int>();
    params.io = io;
    params.next_weight = next.data;
    params.next_bytes = next.bytes;
    run_conv(block, params, stream);
  }
  if (end > n_blocks()) enqueue_head(plan, io, stream);
}

// Whether the head takes the maximum or mean over the positions by itself, and no launch before it does. The bits are
// the same. Every tag then reads the whole map again, which costs less than a launch while that is little.
bool Network::head_pools(const Plan& plan) const {
  constexpr int64_t kMostFloats = int64_t{1} << 20;
  const auto [h, w] = plan.sizes.back();
  const int64_t stride = padded_channels(layers_.back().out_channels, layers_.back().storage);
  return hidden_.empty() && plan.batch * h * w * stride * n_tags_ <= kMostFloats;
}

void Network::enqueue_head(const Plan& plan, const Io* io, Stream stream) const {
  const auto [h, w] = plan.sizes.back();
  const ConvLayer& last = layers_.back();
  const float* x = static_cast<const float*>(map(n_blocks() - 1));
  int positions = h * w, stride = padded_channels(last.out_channels, last.storage);
  Pooling pooling = flatten_ == Flatten::kMax    ? Pooling::kMaximum
                    : flatten_ == Flatten::kMean ? Pooling::kMean
                                                 : Pooling::kNone;
  if (pooling != Pooling::kNone && !head_pools(plan)) {
    run_pool({x, features_.as<float>(), io, positions, stride, pooling}, plan.batch, stream);
    x = features_.as<float>();
    positions = 1;
    pooling = Pooling::kNone;
  }
  for (const Hidden& layer : hidden_) {
    run_dense({x, layer.weight.as<float>(), layer.bias.as<float>(), layer.output.as<float>(), io, layer.inputs,
               layer.outputs, layer.activation},
              plan.batch, stream);
    x = layer.output.as<float>();
    positions = 1;
    stride = layer.outputs;
  }
  run_head({x, head_weight_.as<float>(), head_bias_.as<float>(), io, positions, stride, pooling, n_tags_}, plan.batch,
           stream);
}

void Network::claim(Stream stream) {
  if (used_) idle_->make_wait(stream);  // also on the same handle: it may be a new stream's
}

void Network::release(Stream stream) {
  idle_->record(stream);
  used_ = true;
}

void Network::wait() const {
  if (used_) idle_->synchronize();
}

bool Network::idle() const { return !used_ || idle_->done(); }

Network::~Network() {
  try {
    wait();
  } catch (const DeviceError&) {  // the device is lost: nothing runs any more
  }
}

MapParams Network::map_params(const Plan& plan, int block, float* out) const {
  const auto [h, w] = plan.sizes[block + 1];
  const ConvLayer& layer = layers_[block];
  return {map(block),   out, h * w, layer.out_channels, padded_channels(layer.out_channels, layer.storage),
          layer.storage};
}

void Network::read_block(const Plan& plan, int block, int images, int64_t row, int channel_base,
                         const NetworkOutputs& outputs) {
  const int channels = layers_[block].out_channels;
  const int64_t size = static_cast<int64_t>(channels) * plan.sizes[block + 1].first * plan.sizes[block + 1].second;
  const bool last = block + 1 == n_blocks() && hidden_.empty();  // whose features are the head's
  float* whole = outputs.blocks.empty() ? nullptr : outputs.blocks[block];
  if (whole != nullptr || (last && outputs.features != nullptr)) {
    DeviceMemory out(static_cast<std::size_t>(images) * size * sizeof(float));
    std::vector<float> values(static_cast<std::size_t>(images) * size);
    run_unpack(map_params(plan, block, out.as<float>()), images, stream_->get());
    copy_to_host(values.data(), out.as<void>(), out.bytes(), stream_->get());
    synchronize(stream_->get());
    if (whole != nullptr) std::copy(values.begin(), values.end(), whole + row * size);
    for (int i = 0; last && outputs.features != nullptr && i < images; ++i) {
      flatten(values.data() + i * size, channels, static_cast<int>(size / channels), flatten_,
              outputs.features + (row + i) * in_features_);
    }
  }
  if (outputs.block_means != nullptr) {
    DeviceMemory out(static_cast<std::size_t>(images) * channels * sizeof(float));
    run_means(map_params(plan, block, out.as<float>()), images, stream_->get());
    std::vector<float> means(static_cast<std::size_t>(images) * channels);
    copy_to_host(means.data(), out.as<void>(), out.bytes(), stream_->get());
    synchronize(stream_->get());
    for (int i = 0; i < images; ++i) {
      std::copy_n(means.data() + static_cast<std::size_t>(i) * channels, channels,
                  outputs.block_means + (row + i) * block_channels() + channel_base);
    }
  }
}

// The outputs of the hidden layers, and of the last one as features.
void Network::read_hidden(int images, int64_t row, const NetworkOutputs& outputs) {
  for (std::size_t i = 0; i < hidden_.size(); ++i) {
    const int64_t outs = hidden_[i].outputs;
    const std::size_t bytes = static_cast<std::size_t>(images) * outs * sizeof(float);
    const void* from = hidden_[i].output.as<void>();
    if (!outputs.hidden.empty()) copy_to_host(outputs.hidden[i] + row * outs, from, bytes, stream_->get());
    if (i + 1 == hidden_.size() && outputs.features != nullptr) {
      copy_to_host(outputs.features + row * outs, from, bytes, stream_->get());
    }
  }
}

void Network::run(const float* x, int batch, int height, int width, const NetworkOutputs& outputs) {
  FCNTAG_CHECK(batch >= 0, "network: batch=", batch);
  FCNTAG_CHECK(outputs.blocks.empty() || static_cast<int>(outputs.blocks.size()) == n_blocks(),
               "network: ", outputs.blocks.size(), " block outputs for ", n_blocks(), " blocks");
  const DeviceScope scope(device_.index);
  const int64_t image = static_cast<int64_t>(height) * width;
  const Claim claimed(*this, stream_->get());
  for (int begin = 0; begin < batch; begin += max_batch_) {
    const int images = std::min(max_batch_, batch - begin);
    const Plan& p = plan(images, height, width);
    copy_to_device(input_.as<void>(), x + begin * image, images * image * sizeof(float), stream_->get());
    set_io(io_.as<Io>(), {nullptr, 0, scores_.as<float>(), logits_.as<float>(), images}, stream_->get());
    const InputView view{input_.as<float>(), image, width};
    int channel_base = 0;
    for (int i = 0; i <= n_blocks(); ++i) {
      Event start(true), end(true);
      start.record(stream_->get());
      enqueue(p, view, io_.as<Io>(), i, i + 1, stream_->get());
      end.record(stream_->get());
      if (outputs.seconds != nullptr) outputs.seconds[i] += Event::seconds_between(start, end);
      if (i < n_blocks()) {
        read_block(p, i, images, begin, channel_base, outputs);
        channel_base += layers_[i].out_channels;
      }
    }
    read_hidden(images, begin, outputs);
    const std::size_t bytes = static_cast<std::size_t>(images) * n_tags_ * sizeof(float);
    const int64_t at = static_cast<int64_t>(begin) * n_tags_;
    if (outputs.scores != nullptr) copy_to_host(outputs.scores + at, scores_.as<void>(), bytes, stream_->get());
    if (outputs.logits != nullptr) copy_to_host(outputs.logits + at, logits_.as<void>(), bytes, stream_->get());
    synchronize(stream_->get());
  }
}

std::vector<int> Network::hidden_features() const {
  std::vector<int> features;
  for (const Hidden& layer : hidden_) features.push_back(layer.outputs);
  return features;
}

int Network::block_channels() const {
  int channels = 0;
  for (const ConvLayer& layer : layers_) channels += layer.out_channels;
  return channels;
}

std::size_t Network::memory_bytes() const {
  std::size_t bytes = head_weight_.bytes() + head_bias_.bytes() + maps_[0].bytes() + maps_[1].bytes() +
                      partial_.bytes() + arrivals_.bytes() + input_.bytes() + scores_.bytes() + logits_.bytes() +
                      io_.bytes();
  bytes += features_.bytes();
  for (const Hidden& layer : hidden_) bytes += layer.weight.bytes() + layer.bias.bytes() + layer.output.bytes();
  for (const auto& [key, plan] : plans_) {
    for (const DeviceMemory& memory : plan.tables) bytes += memory.bytes();
  }
  for (const DeviceMemory& memory : weights_) bytes += memory.bytes();
  for (const DeviceMemory& memory : epilogues_) bytes += memory.bytes();
  return bytes;
}

}  // namespace cuda
}  // namespace fcntag
