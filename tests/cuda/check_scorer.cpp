// Whole runs from waves to scores on the emulator: one recorded graph serves any address, batch and stream.
//
//   check_scorer [seed] [case substring]
//
// The values are compared elsewhere, stage by stage. Here every way to run a clip has to give the bits that it gives
// alone, from host memory; and the launches of a call are counted. Run plain, under AddressSanitizer and under
// ThreadSanitizer.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "cuda/conv/conv_pack.h"
#include "cuda/scorer.h"
#include "emulation/emulator.h"
#include "mel_cases.h"

using namespace fcntag;
using namespace fcntag::cuda;
using namespace fcntag::mel_cases;

namespace {

constexpr float kUntouched = -12345.5f;
constexpr int kTags = 11, kMaxBatch = 4, kSamples = 3000, kFrames = 12, kMels = 9;

struct Case {
  const char* name;
  MelCase mel;
  int n_channels;  // 0: no resampler in front
  Precision precision;
  Flatten order;
  std::vector<int> hidden;
  int launches;  // of a call with one clip
};

MelCase mel(LogKind log, Normalization normalization, int n_fft = kFft) {
  MelCase c = {"", kMels, 256, kSamples, 256, kFrames, kZeros, log, normalization};
  c.n_fft = n_fft;
  return c;
}

// Every kernel that may be the first of a chain, and every way to end one.
const Case kCases[] = {
    // mel, two blocks, head
    {"512 points", mel(kLog, N::kNone), 0, Precision::kBfloat16, Flatten::kChw, {}, 4},
    {"512 points, float32", mel(kLog, N::kNone), 0, Precision::kFloat32, Flatten::kMax, {}, 4},
    {"mean", mel(kLog, N::kPerMel), 0, Precision::kTf32, Flatten::kMean, {}, 4},
    // and one for mean and deviation
    {"standardised", mel(kDb, N::kStandardize), 0, Precision::kBfloat16, Flatten::kHwc, {}, 5},
    // and the mean over the map, and a hidden layer
    {"600 points, hidden", mel(kLog, N::kNone, 600), 0, Precision::kBfloat16, Flatten::kMean, {40}, 6},
    {"resampled", mel(kLog, N::kNone), 2, Precision::kBfloat16, Flatten::kChw, {}, 5},
};

class Chain {
 public:
  explicit Chain(const Case& c) : clip_floats_(kSamples * (c.n_channels == 0 ? 1 : c.n_channels)) {
    const MelSpecConfig config = make_config(c.mel);
    std::vector<ConvBlockSpec> blocks;
    const int channels[] = {1, 20, 36};
    std::vector<Floats> weights, biases;
    for (int i = 0; i < 2; ++i) {
      weights.push_back(noise(static_cast<std::size_t>(9) * channels[i] * channels[i + 1], 0.3));
      biases.push_back(noise(static_cast<std::size_t>(channels[i + 1]), 0.3));
      blocks.push_back({channels[i], channels[i + 1], 3, Activation::kRelu, 2, 2, 2, 2, weights[i].data(),
                        biases[i].data(), nullptr, nullptr});
    }
    const int positions = kMels / 4 * (kFrames / 4);
    int features = 36 * (is_global(c.order) ? 1 : positions);
    HeadSpec head = {c.order, features, kTags, {}, nullptr, nullptr};
    std::vector<Floats> dense, dense_bias;
    for (const int outputs : c.hidden) {
      dense.push_back(noise(static_cast<std::size_t>(outputs) * features, 0.1));
      dense_bias.push_back(noise(static_cast<std::size_t>(outputs), 0.1));
      head.hidden.push_back({features, outputs, Activation::kElu, dense.back().data(), dense_bias.back().data()});
      features = outputs;
    }
    const Floats head_weight = noise(static_cast<std::size_t>(kTags) * features, 0.05), head_bias = noise(kTags, 0.5);
    const int places = is_global(c.order) ? 1 : positions, stride = padded_channels(36, Storage::kFloat32);
    const std::size_t last_floats = c.hidden.empty() ? static_cast<std::size_t>(kTags) * places * stride
                                                     : packed_dense_floats(places * stride, c.hidden.front());
    fetched_lines_ = lines(pack_conv_weights(blocks[1], c.precision).size()) + lines(last_floats * sizeof(float));
    head.weight = head_weight.data();
    head.bias = head_bias.data();
    const auto network =
        std::make_shared<Network>(NetworkConfig{{blocks, head, kMels, kFrames}, kMaxBatch, c.precision, 0});
    std::shared_ptr<Resampler> resampler;
    if (c.n_channels > 0) resampler = std::make_shared<Resampler>(1, 1, Floats{0.25f, 0.5f});
    scorer_ = std::make_unique<Scorer>(std::make_shared<MelSpec>(config, false), network, shape(), resampler, kSamples,
                                       c.n_channels == 0 ? 1 : c.n_channels);
  }

  static SegmentShape shape() { return {kSamples, 256, kFrames, kMels, kFrames}; }
  Scorer& scorer() { return *scorer_; }
  int clip_floats() const { return clip_floats_; }
  // Of 128 bytes, that the blocks ask for: the weights of the second one, and of what comes behind it.
  uint64_t fetched_lines() const { return fetched_lines_; }

 private:
  static uint64_t lines(std::size_t bytes) { return (bytes + 127) / 128; }

  std::unique_ptr<Scorer> scorer_;
  int clip_floats_;
  uint64_t fetched_lines_ = 0;
};

bool check(const Case& c) {
  generator.seed(5);
  Chain chain(c);
  Scorer& scorer = chain.scorer();
  const int floats = chain.clip_floats(), clips = 7;
  bool good = true;
  const auto complain = [&](const std::string& what) {
    std::printf("  %s: %s\n", c.name, what.c_str());
    good = false;
  };

  const Floats waves = noise(static_cast<std::size_t>(clips) * floats, 0.3);
  Floats expected(clips * kTags, kUntouched), logits(expected);
  for (int i = 0; i < clips; ++i) {
    scorer.run(waves.data() + i * floats, 1, expected.data() + i * kTags, logits.data() + i * kTags, Chain::shape());
  }
  for (int i = 0; i < clips; ++i) {
    if (!std::isfinite(expected[i * kTags]) || expected[i * kTags] == kUntouched) complain("a score was left out");
    if (i > 0 && std::memcmp(&expected[i * kTags], &expected[0], kTags * sizeof(float)) == 0) {
      complain("two clips have the same scores");
    }
  }
  const auto same = [&](const Floats& a, const Floats& b) {
    return std::memcmp(a.data(), b.data(), b.size() * sizeof(float)) == 0;
  };
  Floats together(expected.size(), kUntouched), together_logits(together);
  scorer.run(waves.data(), clips, together.data(), together_logits.data(), Chain::shape());
  if (!same(together, expected) || !same(together_logits, logits)) complain("other bits in a batch, from host memory");

  const int gap = 5;
  const std::size_t row = static_cast<std::size_t>(floats + gap);
  DeviceMemory source(clips * row * sizeof(float)), target((clips + 1) * kTags * sizeof(float));
  for (int i = 0; i < clips; ++i) {
    copy_to_device(source.as<float>() + i * row, waves.data() + i * floats, floats * sizeof(float), nullptr);
  }
  OwnStream streams[2];
  // Clips [first, first + count) on a stream, their scores to the place of the clips.
  const auto run = [&](int first, int count, Stream stream) {
    Floats values((clips + 1) * kTags, kUntouched);
    copy_to_device(target.as<void>(), values.data(), target.bytes(), stream);
    const emulator::Statistics before = emulator::statistics();
    scorer.enqueue(source.as<float>() + first * row, static_cast<int64_t>(row), count,
                   target.as<float>() + first * kTags, nullptr, Chain::shape(), stream);
    const int launches = static_cast<int>(emulator::statistics().launches - before.launches);
    const uint64_t prefetches = emulator::statistics().prefetches - before.prefetches;
    if (count == 1 && prefetches != chain.fetched_lines()) {
      complain(std::to_string(prefetches) + " lines were asked for before their turn; expected " +
               std::to_string(chain.fetched_lines()));
    }
    if (count == 1 && launches != c.launches) {
      complain(std::to_string(launches) + " launches for a clip; expected " + std::to_string(c.launches));
    }
    copy_to_host(values.data(), target.as<void>(), target.bytes(), stream);
    synchronize(stream);
    for (int i = 0; i <= clips; ++i) {
      const float* scores = &values[i * kTags];
      if (i >= first && i < first + count) {
        if (std::memcmp(scores, &expected[i * kTags], kTags * sizeof(float)) != 0) {
          complain("clip " + std::to_string(i) + " of [" + std::to_string(first) + ", " +
                   std::to_string(first + count) + ") has other bits");
        }
      } else if (scores[0] != kUntouched) {
        complain("scores were written where no clip is");
      }
    }
  };
  for (const bool graphs : {true, false}) {
    scorer.use_graphs(graphs);
    int turn = 0;
    for (const auto& [first, count] : {std::pair{0, 3}, {4, 3}, {6, 1}, {1, 1}, {1, 1}, {2, 4}, {3, 2}, {0, 3}}) {
      run(first, count, streams[turn++ % 2].get());
    }
  }
  // Stages one by one, with an Io of their own, come between two calls.
  scorer.use_graphs(true);
  scorer.stage_times(2, 1, 0.0, Chain::shape());
  run(2, 1, streams[0].get());
  // Calls whose results are looked at only after all of them: none may disturb the one before it.
  Floats values((clips + 1) * kTags, kUntouched);
  copy_to_device(target.as<void>(), values.data(), target.bytes(), nullptr);
  for (int i = 0; i < clips; ++i) {
    scorer.enqueue(source.as<float>() + i * row, static_cast<int64_t>(row), 1, target.as<float>() + i * kTags, nullptr,
                   Chain::shape(), streams[i % 2].get());
  }
  for (const OwnStream& stream : streams) synchronize(stream.get());
  copy_to_host(values.data(), target.as<void>(), target.bytes(), nullptr);
  if (!same(values, expected)) complain("calls in a row give other bits");

  std::printf("%-22s %s\n", c.name, good ? "ok  " : "FAIL");
  std::fflush(stdout);
  return good;
}

}  // namespace

int main(int argc, char** argv) {
  emulator::options().seed = argc > 1 ? static_cast<unsigned>(std::atoi(argv[1])) : 0;
  const std::string only = argc > 2 ? argv[2] : "";
  int failures = 0, cases = 0;
  for (const Case& c : kCases) {
    if (std::string(c.name).find(only) == std::string::npos) continue;
    ++cases;
    failures += !check(c);
  }
  std::printf("%d of %d cases failed\n", failures, cases);
  return failures == 0 && cases > 0 ? 0 : 1;
}
