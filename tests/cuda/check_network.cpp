// Conv blocks and head on the emulator against plain loops in double: every precision, pool and shape that matters.
//
//   check_network [seed] [case substring]
//
// Each block is compared on the input that it really had, so that only the error of its own sums and the rounding of
// its output remain. Run plain, under AddressSanitizer and under ThreadSanitizer (tests/test_cuda_sanitizers.py).
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "cuda/half.h"
#include "cuda/network.h"
#include "emulation/emulator.h"

using namespace fcntag;
using namespace fcntag::cuda;

namespace {

struct BlockCase {
  int channels, kernel;
  Activation activation;
  bool affine;
  int pool_h, pool_w, stride_h, stride_w;
};

struct Case {
  std::string name;
  int height, width, batch, max_batch;
  std::vector<BlockCase> blocks;
  Flatten order;
  std::vector<std::pair<int, Activation>> hidden = {};  // out_features of the head's hidden layers
};

BlockCase block(int channels, int pool_h, int pool_w, Activation activation = Activation::kRelu, bool affine = false) {
  return {channels, 3, activation, affine, pool_h, pool_w, pool_h, pool_w};
}

// Small maps, awkward numbers: channels that fill no chunk, warp or tile, rows and columns that pooling drops, windows
// that overlap or leave gaps, windows larger than the accumulators, deep maps of one window.
const Case kCases[] = {
    {"hidden",
     6,
     8,
     35,  // more than a block of images
     48,
     {block(20, 3, 4)},
     Flatten::kChw,
     {{70, Activation::kRelu}, {5, Activation::kNone}, {65, Activation::kElu}}},
    {"hidden, hwc", 9, 8, 3, 4, {block(9, 2, 3)}, Flatten::kHwc, {{3, Activation::kElu}}},
    {"hidden, many inputs", 6, 8, 18, 18, {block(132, 3, 2)}, Flatten::kChw, {{10, Activation::kRelu}}},
    {"hidden, mean", 9, 8, 3, 4, {block(33, 2, 2, Activation::kElu, true)}, Flatten::kMean, {{66, Activation::kRelu}}},
    {"hidden, maximum", 9, 8, 3, 4, {block(33, 2, 2)}, Flatten::kMax, {{8, Activation::kRelu}}},
    // A tag's weights are shared by eight warps, with a remainder; a block of the head takes several images.
    {"many features", 6, 4, 18, 18, {block(1044, 3, 4, Activation::kElu)}, Flatten::kChw},
    // Four of these are pooled by a launch of its own, and one alone by the head.
    {"mean, many positions", 82, 82, 4, 4, {block(12, 2, 2)}, Flatten::kMean},
    {"maximum, many positions", 82, 82, 4, 4, {block(12, 2, 2)}, Flatten::kMax},
    {"mean", 9, 8, 3, 4, {block(12, 2, 2, Activation::kNone, true)}, Flatten::kMean},
    {"pairs", 22, 27, 3, 4, {block(20, 2, 4), block(36, 2, 2, Activation::kElu, true), block(70, 2, 2)}, Flatten::kChw},
    {"musicnn",
     30,
     25,
     2,
     2,
     {{24, 3, Activation::kRelu, true, 4, 1, 2, 2}, {33, 3, Activation::kRelu, true, 2, 2, 2, 2}, block(24, 1, 4)},
     Flatten::kHwc},
    {"overlap and gaps",
     26,
     31,
     1,
     4,
     {block(8, 1, 1), {40, 3, Activation::kElu, true, 3, 4, 2, 3}, {18, 3, Activation::kNone, false, 1, 2, 3, 4}},
     Flatten::kChw},
    {"fcn4", 24, 45, 1, 1, {block(16, 1, 1), block(130, 4, 5), block(68, 3, 8)}, Flatten::kChw},
    {"deep", 8, 8, 3, 4, {block(80, 2, 1), block(200, 1, 1), block(140, 4, 8)}, Flatten::kMax},
    {"large window", 10, 21, 1, 2, {block(12, 1, 1), block(40, 8, 17), block(9, 1, 1)}, Flatten::kChw},
    {"one by one",
     6,
     7,
     2,
     2,
     {{40, 1, Activation::kElu, true, 1, 1, 1, 1}, {100, 1, Activation::kRelu, false, 1, 1, 1, 1}, block(5, 2, 3)},
     Flatten::kHwc},
    {"fives", 15, 25, 2, 2, {block(10, 1, 1), block(34, 3, 5), block(66, 2, 5)}, Flatten::kMax},
    {"three four", 12, 18, 2, 2, {block(32, 1, 1), block(32, 3, 4), block(32, 4, 4, Activation::kElu)}, Flatten::kChw},
    {"single", 9, 11, 3, 3, {block(21, 9, 11, Activation::kNone, true)}, Flatten::kChw},
};

// Every window that a first block has a kernel of its own for, and one that it has none for, with outputs that fill no
// tile.
std::vector<Case> first_block_cases() {
  std::vector<Case> cases;
  std::vector<PoolWindow> windows = built_first_windows();
  windows.push_back({3, 2});
  for (const PoolWindow& window : windows) {
    cases.push_back({"first " + std::to_string(window.height) + "x" + std::to_string(window.width),
                     5 * window.height + 1,
                     7 * window.width + 1,
                     2,
                     2,
                     {block(21, window.height, window.width, Activation::kElu, true)},
                     Flatten::kChw});
  }
  // More tiles than CTAs: each walks over some, and one of them over two images.
  cases.push_back({"first of many tiles", 33, 80, 4, 4, {block(8, 1, 2, Activation::kRelu, true)}, Flatten::kChw});
  return cases;
}

WindowKernel expected_window(const BlockCase& first, Precision precision) {
  if (element_bytes(precision) == 2) return WindowKernel::kAny;
  for (const PoolWindow& window : built_first_windows()) {
    if (window.height == first.pool_h && window.width == first.pool_w) return WindowKernel::kBuilt;
  }
  return WindowKernel::kGeneral;
}

const struct {
  const char* name;
  Precision precision;
  double stored;  // relative L2 of a block whose output is rounded: half a unit in the last place, at worst
} kPrecisions[] = {
    {"float32", Precision::kFloat32, 1e-6},     {"tf32x3", Precision::kTf32x3, 1e-6},
    {"tf32", Precision::kTf32, 4.9e-4},         {"float16", Precision::kFloat16, 4.9e-4},
    {"bfloat16", Precision::kBfloat16, 3.9e-3},
};

std::mt19937 generator;

std::vector<float> normal(std::size_t count, double scale) {
  std::normal_distribution<float> distribution(0.0f, static_cast<float>(scale));
  std::vector<float> values(count);
  for (float& x : values) x = distribution(generator);
  return values;
}

float rounded(float x, Precision p) {
  uint8_t bytes[4];
  store_as(bytes, x, p);
  float value = 0;
  if (element_bytes(p) == 4) {
    std::memcpy(&value, bytes, 4);
  } else {
    uint16_t half;
    std::memcpy(&half, bytes, 2);
    const uint32_t wide = static_cast<uint32_t>(half) << 16;
    std::memcpy(&value, &wide, 4);
    if (p == Precision::kFloat16) value = emulator::from_float16(half);
  }
  return value;
}

// x [channels][height][width] -> y [out channels][out height][out width]
std::vector<double> reference(const ConvBlockSpec& s, const std::vector<float>& weight, const float* x, int height,
                              int width) {
  const int out_h = (height - s.pool_h) / s.stride_h + 1, out_w = (width - s.pool_w) / s.stride_w + 1;
  std::vector<double> y(static_cast<std::size_t>(s.out_channels) * out_h * out_w),
      map(static_cast<std::size_t>(height) * width);
  const int radius = s.kernel / 2;
  for (int n = 0; n < s.out_channels; ++n) {
    std::fill(map.begin(), map.end(), s.bias[n]);
    for (int c = 0; c < s.in_channels; ++c) {
      for (int dy = -radius; dy <= radius; ++dy) {
        for (int dx = -radius; dx <= radius; ++dx) {
          const int tap = (dy + radius) * s.kernel + dx + radius;
          const double w = weight[(static_cast<std::size_t>(n) * s.in_channels + c) * s.kernel * s.kernel + tap];
          for (int r = std::max(0, -dy); r < std::min(height, height - dy); ++r) {
            for (int q = std::max(0, -dx); q < std::min(width, width - dx); ++q) {
              map[r * width + q] += w * x[(static_cast<std::size_t>(c) * height + r + dy) * width + q + dx];
            }
          }
        }
      }
    }
    for (double& v : map) {
      if (s.activation == Activation::kRelu) v = std::max(v, 0.0);
      if (s.activation == Activation::kElu) v = v > 0 ? v : std::expm1(v);
      if (s.scale != nullptr) v = s.scale[n] * v + s.shift[n];
    }
    for (int r = 0; r < out_h; ++r) {
      for (int q = 0; q < out_w; ++q) {
        double best = -std::numeric_limits<double>::infinity();
        for (int i = 0; i < s.pool_h; ++i) {
          for (int j = 0; j < s.pool_w; ++j)
            best = std::max(best, map[(r * s.stride_h + i) * width + q * s.stride_w + j]);
        }
        y[(static_cast<std::size_t>(n) * out_h + r) * out_w + q] = best;
      }
    }
  }
  return y;
}

double relative_l2(const float* actual, const std::vector<double>& expected) {
  double error = 0, norm = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    error += (actual[i] - expected[i]) * (actual[i] - expected[i]);
    norm += expected[i] * expected[i];
  }
  return std::sqrt(error / norm);  // NaN where a value is not a number: no comparison holds
}

// Relative L2 of a hidden layer: sums of up to a hundred products in float.
constexpr double kDenseTolerance = 1e-6;

// map [channels][positions] -> features in the model's order.
std::vector<double> flattened(const float* map, int channels, int positions, Flatten order) {
  std::vector<double> features;
  if (order == Flatten::kHwc) {
    for (int i = 0; i < positions; ++i) {
      for (int c = 0; c < channels; ++c) features.push_back(map[c * positions + i]);
    }
    return features;
  }
  if (order == Flatten::kChw) return std::vector<double>(map, map + channels * positions);
  for (int c = 0; c < channels; ++c) {
    double sum = 0, most = map[c * positions];
    for (int i = 0; i < positions; ++i) {
      sum += map[c * positions + i];
      most = std::max<double>(most, map[c * positions + i]);
    }
    features.push_back(order == Flatten::kMax ? most : sum / positions);
  }
  return features;
}

std::vector<double> dense_reference(const DenseSpec& layer, const float* x) {
  std::vector<double> y;
  for (int out = 0; out < layer.out_features; ++out) {
    double sum = layer.bias[out];
    for (int i = 0; i < layer.in_features; ++i)
      sum += static_cast<double>(layer.weight[out * layer.in_features + i]) * x[i];
    if (layer.activation == Activation::kRelu) sum = std::max(sum, 0.0);
    if (layer.activation == Activation::kElu) sum = sum > 0 ? sum : std::expm1(sum);
    y.push_back(sum);
  }
  return y;
}

bool check(const Case& c, const char* precision_name, Precision precision, double stored) {
  std::vector<std::vector<float>> weights, exact, biases, scales, shifts;
  std::vector<ConvBlockSpec> specs;
  int channels = 1;
  for (const BlockCase& b : c.blocks) {
    const int taps = b.kernel * b.kernel;
    weights.push_back(
        normal(static_cast<std::size_t>(b.channels) * channels * taps, std::sqrt(2.0 / (channels * taps))));
    biases.push_back(normal(b.channels, 0.5));
    scales.push_back(normal(b.channels, 1.0));  // half of them negative
    shifts.push_back(normal(b.channels, 0.5));
    channels = b.channels;
  }
  channels = 1;
  for (std::size_t i = 0; i < c.blocks.size(); ++i) {
    const BlockCase& b = c.blocks[i];
    specs.push_back({channels, b.channels, b.kernel, b.activation, b.pool_h, b.pool_w, b.stride_h, b.stride_w,
                     weights[i].data(), biases[i].data(), b.affine ? scales[i].data() : nullptr,
                     b.affine ? shifts[i].data() : nullptr});
    exact.push_back(weights[i]);  // as the kernel multiplies them
    if (i > 0) {
      for (float& w : exact.back()) w = rounded(w, precision);
    } else if (element_bytes(precision) == 2) {  // the first block's are float16, scaled channel by channel; or float32
      const int taps = b.kernel * b.kernel;
      for (int n = 0; n < b.channels; ++n) {
        int exponent = 0;
        float largest = 0;
        for (int t = 0; t < taps; ++t) largest = std::max(largest, std::fabs(weights[0][n * taps + t]));
        std::frexp(largest, &exponent);
        for (int t = 0; t < taps; ++t) {
          float& w = exact.back()[n * taps + t];
          w = std::ldexp(rounded(std::ldexp(w, -exponent), Precision::kFloat16), exponent);
        }
      }
    }
    channels = b.channels;
  }
  int h = c.height, w = c.width;
  std::vector<std::pair<int, int>> sizes = {{h, w}};
  for (const BlockCase& b : c.blocks) {
    h = (h - b.pool_h) / b.stride_h + 1;
    w = (w - b.pool_w) / b.stride_w + 1;
    sizes.emplace_back(h, w);
  }
  const int positions = h * w, n_tags = 11, in_features = channels * (is_global(c.order) ? 1 : positions);
  std::vector<DenseSpec> hidden;
  std::vector<std::vector<float>> hidden_weights, hidden_biases;
  int features = in_features;
  for (const auto& [outputs_of, activation] : c.hidden) {
    hidden_weights.push_back(normal(static_cast<std::size_t>(outputs_of) * features, std::sqrt(2.0 / features)));
    hidden_biases.push_back(normal(outputs_of, 0.5));
    hidden.push_back({features, outputs_of, activation, hidden_weights.back().data(), hidden_biases.back().data()});
    features = outputs_of;
  }
  const std::vector<float> head = normal(static_cast<std::size_t>(n_tags) * features, std::sqrt(1.0 / features));
  const std::vector<float> head_bias = normal(n_tags, 0.5);
  const HeadSpec head_spec{c.order, in_features, n_tags, hidden, head.data(), head_bias.data()};
  Network network({{specs, head_spec, c.height, c.width}, c.max_batch, precision, 0});

  const std::vector<float> x = normal(static_cast<std::size_t>(c.batch) * c.height * c.width, 1.0);
  std::vector<float> first_input = x;  // as the first block multiplies it
  if (element_bytes(precision) == 2) {
    for (float& v : first_input) v = rounded(v, Precision::kFloat16);
  }
  const float nan = std::numeric_limits<float>::quiet_NaN();
  std::vector<float> scores(c.batch * n_tags, nan), logits(scores), feature_values(c.batch * features, nan);
  std::vector<std::vector<float>> maps;
  NetworkOutputs outputs;
  for (std::size_t i = 0; i < specs.size(); ++i) {
    maps.emplace_back(
        static_cast<std::size_t>(c.batch) * specs[i].out_channels * sizes[i + 1].first * sizes[i + 1].second, nan);
  }
  for (auto& map : maps) outputs.blocks.push_back(map.data());
  outputs.scores = scores.data();
  outputs.logits = logits.data();
  outputs.features = feature_values.data();
  std::vector<std::vector<float>> hidden_values;
  for (const DenseSpec& layer : hidden) {
    hidden_values.emplace_back(static_cast<std::size_t>(c.batch) * layer.out_features, nan);
  }
  for (auto& values : hidden_values) outputs.hidden.push_back(values.data());
  network.run(x.data(), c.batch, c.height, c.width, outputs);

  bool good = network.plan(c.batch, c.height, c.width).first.window == expected_window(c.blocks[0], precision);
  if (!good) std::printf("  %s %s: another kernel than the one for the first window\n", c.name.c_str(), precision_name);
  double worst = 0;
  for (std::size_t i = 0; i < specs.size(); ++i) {
    const double tolerance = i + 1 == specs.size() ? 1e-6 : stored;
    const std::size_t in = static_cast<std::size_t>(specs[i].in_channels) * sizes[i].first * sizes[i].second;
    const std::size_t out = maps[i].size() / c.batch;
    for (int image = 0; image < c.batch; ++image) {
      const float* input = (i == 0 ? first_input : maps[i - 1]).data() + image * in;
      const double error = relative_l2(maps[i].data() + image * out,
                                       reference(specs[i], exact[i], input, sizes[i].first, sizes[i].second));
      worst = std::max(worst, error / tolerance);
      if (!(error <= tolerance)) {
        std::printf("  %s %s block %zu image %d: relative L2 %.3g, allowed %.3g\n", c.name.c_str(), precision_name, i,
                    image, error, tolerance);
        good = false;
      }
    }
  }
  for (int image = 0; image < c.batch; ++image) {
    const std::vector<double> found =
        flattened(maps.back().data() + image * maps.back().size() / c.batch, channels, positions, c.order);
    std::vector<float> input(found.begin(), found.end());
    for (std::size_t i = 0; i < hidden.size(); ++i) {
      const float* actual = hidden_values[i].data() + image * hidden[i].out_features;
      const double error = relative_l2(actual, dense_reference(hidden[i], input.data()));
      worst = std::max(worst, error / kDenseTolerance);
      if (!(error <= kDenseTolerance)) {
        std::printf("  %s %s hidden layer %zu image %d: relative L2 %.3g, allowed %.3g\n", c.name.c_str(),
                    precision_name, i, image, error, kDenseTolerance);
        good = false;
      }
      input.assign(actual, actual + hidden[i].out_features);
    }
    for (int i = 0; i < features; ++i) {
      if (!(std::fabs(feature_values[image * features + i] - input[i]) <= 1e-6 * std::fabs(input[i]))) {
        std::printf("  %s %s image %d: feature %d is %g, expected %g\n", c.name.c_str(), precision_name, image, i,
                    feature_values[image * features + i], input[i]);
        good = false;
      }
    }
    for (int tag = 0; tag < n_tags; ++tag) {
      double logit = head_bias[tag];
      for (int i = 0; i < features; ++i)
        logit += static_cast<double>(head[tag * features + i]) * feature_values[image * features + i];
      const double score = 1.0 / (1.0 + std::exp(-logit));
      if (!(std::fabs(scores[image * n_tags + tag] - score) <= 1e-6) ||
          !(std::fabs(logits[image * n_tags + tag] - logit) <= 1e-5)) {
        std::printf("  %s %s: score of tag %d is %g, expected %g\n", c.name.c_str(), precision_name, tag,
                    scores[image * n_tags + tag], score);
        good = false;
      }
    }
  }
  // Alone, every image gives the same bits: whatever tiles a batch takes.
  for (int image = 0; image < c.batch; ++image) {
    std::vector<float> alone(n_tags, nan);
    NetworkOutputs single;
    single.scores = alone.data();
    network.run(x.data() + static_cast<std::size_t>(image) * c.height * c.width, 1, c.height, c.width, single);
    if (std::memcmp(alone.data(), scores.data() + image * n_tags, n_tags * sizeof(float)) != 0) {
      std::printf("  %s %s: image %d alone gives other bits than in a batch of %d\n", c.name.c_str(), precision_name,
                  image, c.batch);
      good = false;
    }
  }
  std::printf("%-18s %-9s %s  worst error %.2f of what is allowed\n", c.name.c_str(), precision_name,
              good ? "ok  " : "FAIL", worst);
  std::fflush(stdout);
  return good;
}

}  // namespace

int main(int argc, char** argv) {
  emulator::options().seed = argc > 1 ? static_cast<unsigned>(std::atoi(argv[1])) : 0;
  const std::string only = argc > 2 ? argv[2] : "";
  int failures = 0, cases = 0;
  std::vector<Case> all(std::begin(kCases), std::end(kCases));
  for (const Case& c : first_block_cases()) all.push_back(c);
  for (const Case& c : all) {
    for (const auto& p : kPrecisions) {
      if ((c.name + " " + p.name).find(only) == std::string::npos) continue;
      generator.seed(7);
      ++cases;
      failures += !check(c, p.name, p.precision, p.stored);
    }
  }
  const emulator::Statistics& s = emulator::statistics();
  std::printf("%d of %d cases failed; %llu of %llu matrix phases had bank conflicts\n", failures, cases,
              static_cast<unsigned long long>(s.matrix_conflicts), static_cast<unsigned long long>(s.matrix_phases));
  return failures == 0 && cases > 0 ? 0 : 1;
}
