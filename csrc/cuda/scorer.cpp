#include "cuda/scorer.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <optional>
#include <random>
#include <utility>

#include "check.h"
#include "cuda/ceilings.h"

namespace fcntag {
namespace cuda {

namespace {

bool same(const Io& a, const Io& b) {
  return a.waves == b.waves && a.wave_stride == b.wave_stride && a.scores == b.scores && a.logits == b.logits &&
         a.count == b.count;
}

// A million random values, over and over: the generator would take longer than the measurement.
std::vector<float> random_waves(std::size_t count, unsigned seed) {
  constexpr std::size_t kPeriod = 1000003;  // a prime, so that no two clips are alike
  std::mt19937 generator(seed);
  std::uniform_real_distribution<float> distribution(-0.5f, 0.5f);
  std::vector<float> waves(count);
  const std::size_t drawn = std::min(count, kPeriod);
  for (std::size_t i = 0; i < drawn; ++i) waves[i] = distribution(generator);
  for (std::size_t i = drawn; i < count; i += drawn) {
    std::copy_n(waves.begin(), std::min(drawn, count - i), waves.begin() + static_cast<std::ptrdiff_t>(i));
  }
  return waves;
}

// A kernel to put in front of what is timed; none for 0 seconds.
std::optional<Spin> make_spin(double seconds, Stream stream) {
  FCNTAG_CHECK(seconds >= 0.0 && seconds <= 0.01, "a spin of ", seconds, " s; allowed: 0 to 0.01");
  return seconds > 0.0 ? std::optional<Spin>(std::in_place, seconds, stream) : std::nullopt;
}

}  // namespace

Scorer::Scorer(std::shared_ptr<MelSpec> melspec, std::shared_ptr<Network> network, SegmentShape largest,
               std::shared_ptr<Resampler> resampler, int64_t n_in, int n_channels)
    : melspec_(std::move(melspec)),
      network_(std::move(network)),
      largest_(largest),
      resampler_(std::move(resampler)),
      n_in_(n_in),
      n_channels_(n_channels) {
  const DeviceScope scope(network_->device());
  const std::size_t batch = static_cast<std::size_t>(network_->max_batch());
  stream_ = std::make_unique<OwnStream>();
  io_ = DeviceMemory(sizeof(Io));
  if (resampler_) resampled_ = DeviceMemory(batch * largest_.n_samples * sizeof(float));
  log_mel_ = DeviceMemory(batch * melspec_->n_rows() * largest_.n_frames * sizeof(float));
  scratch_ = DeviceMemory(melspec_->scratch_bytes(network_->max_batch(), largest_.n_frames));
  results_ = DeviceMemory(2 * batch * network_->n_tags() * sizeof(float));
  pinned_results_ = PinnedMemory(results_.bytes());
  if (!resampler_) make_host_buffers();  // PCM is large, and mostly on the device already
}

// Waves on their way from host memory.
void Scorer::make_host_buffers() {
  if (waves_.bytes() != 0) return;
  waves_ = DeviceMemory(static_cast<std::size_t>(network_->max_batch()) * clip_floats(largest_) * sizeof(float));
  pinned_waves_ = PinnedMemory(waves_.bytes());
}

Scorer::~Scorer() {
  try {
    network_->wait();
  } catch (const DeviceError&) {  // the device is lost: nothing runs any more
  }
}

// Buffers are as large as the largest shape needs.
void Scorer::check_shape(const SegmentShape& shape) const {
  FCNTAG_CHECK(shape.n_samples <= largest_.n_samples, "scores: segments of n_samples=", shape.n_samples,
               "; planned for ", largest_.n_samples);
  FCNTAG_CHECK(shape.n_frames <= largest_.n_frames, "scores: segments of n_frames=", shape.n_frames, "; planned for ",
               largest_.n_frames);
  const int rows = melspec_->n_rows(), frames = shape.n_frames;
  FCNTAG_CHECK(
      shape.height <= (melspec_->time_mel() ? frames : rows) && shape.width <= (melspec_->time_mel() ? rows : frames),
      "scores: an input of ", shape.height, "x", shape.width, "; the front end gives ", rows, " rows and ", frames,
      " frames");
}

// Whether the network finishes the log-mel as it reads it: a launch less.
bool Scorer::network_finishes(int batch, const SegmentShape& shape) const {
  return network_->finishes(melspec_->finish(batch, shape.n_frames, scratch_.as<void>()));
}

InputView Scorer::input_view(int batch, const SegmentShape& shape) const {
  const int n_rows = melspec_->n_rows();
  InputView view = {log_mel_.as<float>(), static_cast<int64_t>(n_rows) * shape.n_frames,
                    melspec_->time_mel() ? n_rows : shape.n_frames};
  if (network_finishes(batch, shape)) view.finish = melspec_->finish(batch, shape.n_frames, scratch_.as<void>());
  return view;
}

// `batch` is the plan's in every call for a run: how the log-mel's maxima lie depends on it.
Repoint Scorer::front_end(const IoSource& io, int batch, const SegmentShape& shape, Stream stream) const {
  const float* waves = resampler_ ? resampled_.as<float>() : nullptr;
  const auto run = network_finishes(batch, shape) ? &MelSpec::run_raw : &MelSpec::run;
  return (melspec_.get()->*run)(io, waves, batch, shape.n_samples, shape.pad_left, shape.n_frames, log_mel_.as<float>(),
                                scratch_.as<void>(), stream);
}

// The first kernel has `io` as a parameter and leaves it in io_ for the others.
Repoint Scorer::put(const Io& io, int batch, const SegmentShape& shape, Stream stream) {
  const Network::Plan& plan = network_->plan(batch, shape.height, shape.width);
  const IoSource source(io_.as<Io>(), io);
  Repoint repoint;
  if (resampler_) {
    repoint = resampler_->run(source, batch, n_in_, n_channels_, resampled_.as<float>(), shape.n_samples, stream);
    front_end(io_.as<Io>(), plan.batch, shape, stream);
  } else {
    repoint = front_end(source, plan.batch, shape, stream);
  }
  network_->enqueue(plan, input_view(plan.batch, shape), io_.as<Io>(), stream);
  return repoint;
}

// The graph of a bucket, recorded where there is none yet, with `io` as what its next launch works on.
Graph& Scorer::recorded(const Io& io, int batch, const SegmentShape& shape) {
  Recorded& recorded = graphs_[{batch, shape}];
  if (!recorded.graph || recorded.generation != network_->generation()) {
    GraphCapture capture(stream_->get());
    recorded.repoint = put(io, batch, shape, stream_->get());
    recorded.graph = capture.finish();
    recorded.generation = network_->generation();
    recorded.io = io;
  } else if (!same(recorded.io, io)) {
    recorded.repoint(*recorded.graph, io);
    recorded.io = io;
  }
  return *recorded.graph;
}

void Scorer::enqueue(const float* waves, int64_t wave_stride, int count, float* scores, float* logits,
                     const SegmentShape& shape, Stream stream) {
  FCNTAG_CHECK(count >= 0 && count <= network_->max_batch(), "scores: ", count,
               " segments; at most max_batch=", network_->max_batch(), " in one call on device arrays");
  check_shape(shape);
  if (count == 0) return;
  const DeviceScope scope(network_->device());
  if (is_capturing(stream)) {
    throw DeviceError(
        "scores: the stream is being captured; a run replays a graph of its own and cannot be part of another");
  }
  const int batch = batch_bucket(count, network_->max_batch());
  network_->plan(batch, shape.height, shape.width);  // may move buffers: before anything is recorded
  const Io io{waves, wave_stride, scores, logits, count};
  Graph* graph = use_graphs_ ? &recorded(io, batch, shape) : nullptr;
  const Claim claimed(*network_, stream);
  if (graph != nullptr) {
    graph->launch(stream);
  } else {
    put(io, batch, shape, stream);
  }
}

void Scorer::run(const float* waves, int count, float* scores, float* logits, const SegmentShape& shape) {
  const int n_tags = network_->n_tags();
  const int64_t floats = clip_floats(shape);
  const DeviceScope scope(network_->device());
  check_shape(shape);
  make_host_buffers();
  for (int begin = 0; begin < count; begin += network_->max_batch()) {
    const int clips = std::min(network_->max_batch(), count - begin);
    network_->claim(stream_->get());
    // In slices: one is on its way while the next is copied to where it can be sent from.
    constexpr int64_t kSlice = int64_t{1} << 20;  // floats
    for (int64_t at = 0; at < clips * floats; at += kSlice) {
      const std::size_t bytes = static_cast<std::size_t>(std::min(kSlice, clips * floats - at)) * sizeof(float);
      std::memcpy(pinned_waves_.as<float>() + at, waves + begin * floats + at, bytes);
      copy_to_device(waves_.as<float>() + at, pinned_waves_.as<float>() + at, bytes, stream_->get());
    }
    const int64_t at = static_cast<int64_t>(begin) * n_tags, values = static_cast<int64_t>(clips) * n_tags;
    float* device_scores = results_.as<float>();  // and the logits right behind them: one copy brings both
    enqueue(waves_.as<float>(), floats, clips, device_scores, device_scores + values, shape, stream_->get());
    copy_to_host(pinned_results_.as<void>(), device_scores, 2 * values * sizeof(float), stream_->get());
    synchronize(stream_->get());
    const float* results = pinned_results_.as<float>();
    if (scores != nullptr) std::copy_n(results, values, scores + at);
    if (logits != nullptr) std::copy_n(results + values, values, logits + at);
  }
}

std::vector<std::pair<std::string, std::vector<double>>> Scorer::stage_times(int batch, int repeats,
                                                                             double spin_seconds,
                                                                             const SegmentShape& shape) {
  const DeviceScope scope(network_->device());
  check_shape(shape);
  make_host_buffers();
  const Network::Plan& plan = network_->plan(batch, shape.height, shape.width);
  const int64_t floats = clip_floats(shape);
  const std::vector<float> waves = random_waves(static_cast<std::size_t>(batch) * floats, 1);
  std::memcpy(pinned_waves_.as<void>(), waves.data(), waves.size() * sizeof(float));
  Stream stream = stream_->get();
  const std::optional<Spin> busy = make_spin(spin_seconds, stream);
  std::vector<std::pair<std::string, std::vector<double>>> times;
  std::vector<std::pair<std::string, std::function<void()>>> stages;
  stages.emplace_back("h2d", [&] {
    copy_to_device(waves_.as<void>(), pinned_waves_.as<void>(), waves.size() * sizeof(float), stream);
  });
  if (resampler_) {
    stages.emplace_back("resample", [&] {
      resampler_->run(io_.as<Io>(), batch, n_in_, n_channels_, resampled_.as<float>(), shape.n_samples, stream);
    });
  }
  stages.emplace_back("mel", [&] { front_end(io_.as<Io>(), plan.batch, shape, stream); });
  for (int i = 0; i <= network_->n_blocks(); ++i) {
    stages.emplace_back(i < network_->n_blocks() ? "block " + std::to_string(i + 1) : "head", [&, i] {
      network_->enqueue(plan, input_view(plan.batch, shape), io_.as<Io>(), i, i + 1, stream);
    });
  }
  const Claim claimed(*network_, stream);
  set_io(io_.as<Io>(), {waves_.as<float>(), floats, results_.as<float>(), nullptr, batch}, stream);
  for (const auto& [name, stage] : stages) times.emplace_back(name, std::vector<double>());
  for (int repeat = -2; repeat < repeats; ++repeat) {  // the first two warm up
    for (std::size_t i = 0; i < stages.size(); ++i) {
      Event start(true), end(true);
      if (busy) busy->put(stream);
      start.record(stream);
      stages[i].second();
      end.record(stream);
      const double seconds = Event::seconds_between(start, end);
      if (repeat >= 0) times[i].second.push_back(seconds);
    }
  }
  return times;
}

std::vector<double> Scorer::replay_times(int batch, int repeats, int inputs, std::size_t flush_bytes,
                                         double spin_seconds, const SegmentShape& shape) {
  FCNTAG_CHECK(inputs >= 1, "replay_times: inputs=", inputs, "; must be at least 1");
  const DeviceScope scope(network_->device());
  Stream stream = stream_->get();
  const std::optional<Spin> busy = make_spin(spin_seconds, stream);
  const int64_t floats = clip_floats(shape);
  const std::size_t size = static_cast<std::size_t>(batch) * floats;
  DeviceMemory waves(inputs * size * sizeof(float)), flush(flush_bytes);
  // Inputs of their own, though shifted copies of one: drawing them all would take longer than the measurement.
  const std::vector<float> values = random_waves(size + inputs, 2);
  for (int i = 0; i < inputs; ++i) {
    copy_to_device(waves.as<float>() + i * size, values.data() + i, size * sizeof(float), stream);
  }
  synchronize(stream);
  std::vector<double> seconds;
  for (int repeat = -inputs - 2; repeat < repeats; ++repeat) {
    if (flush_bytes != 0) set_zero(flush.as<void>(), flush_bytes, stream);
    const float* source = waves.as<float>() + static_cast<std::size_t>(repeat + inputs + 2) % inputs * size;
    Event start(true), end(true);
    if (busy) busy->put(stream);
    start.record(stream);
    enqueue(source, floats, batch, results_.as<float>(), nullptr, shape, stream);
    end.record(stream);
    const double elapsed = Event::seconds_between(start, end);
    if (repeat >= 0) seconds.push_back(elapsed);
  }
  return seconds;
}

std::size_t Scorer::memory_bytes() const {
  return io_.bytes() + waves_.bytes() + resampled_.bytes() + log_mel_.bytes() + scratch_.bytes() + results_.bytes();
}

}  // namespace cuda
}  // namespace fcntag
