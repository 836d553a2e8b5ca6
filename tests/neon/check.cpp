// Runs the core of the ARM build (under qemu-user, or on ARM) and compares NEON with the plain code: blocks direct and
// by Winograd, every activation, odd sizes, hidden dense layers, and the front end. Prints one line a case; exit code 1
// if any is off.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <vector>

#include "cpu/isa.h"
#include "cpu/melspec.h"
#include "cpu/network.h"
#include "cpu/thread_pool.h"

namespace {

using namespace fcntag;

std::mt19937 generator(1);

std::vector<float> random_vector(std::size_t size, double scale) {
  std::normal_distribution<float> normal(0, static_cast<float>(scale));
  std::vector<float> values(size);
  for (float& v : values) v = normal(generator);
  return values;
}

struct Block {
  int channels, kernel;
  Activation activation;
  bool affine;
  int ph, pw, sh, sw;
};

double relative_l2(const std::vector<float>& a, const std::vector<float>& b) {
  double error = 0, norm = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    error += std::pow(static_cast<double>(a[i]) - b[i], 2);
    norm += std::pow(static_cast<double>(b[i]), 2);
  }
  return std::sqrt(error / norm);
}

// Features and logits of the same network and input under each instruction set; `hidden`: outputs of hidden layers.
bool check_network(const char* name, const std::vector<Block>& blocks, int height, int width,
                   const std::vector<int>& hidden = {}, Flatten flatten = Flatten::kChw) {
  constexpr int kBatch = 5, kTags = 3;
  std::vector<std::vector<float>> tensors;
  std::vector<ConvBlockSpec> specs;
  int channels = 1, h = height, w = width;
  for (const Block& b : blocks) {
    const double fan_in = channels * b.kernel * b.kernel;
    tensors.push_back(random_vector(static_cast<std::size_t>(b.channels * fan_in), std::sqrt(2 / fan_in)));
    for (int i = 0; i < 3; ++i) tensors.push_back(random_vector(b.channels, 0.5));
    channels = b.channels;
    h = (h - b.ph) / b.sh + 1;
    w = (w - b.pw) / b.sw + 1;
  }
  for (std::size_t i = 0, c = 1; i < blocks.size(); c = blocks[i++].channels) {
    const Block& b = blocks[i];
    const float* affine = b.affine ? tensors[4 * i + 2].data() : nullptr;
    specs.push_back({static_cast<int>(c), b.channels, b.kernel, b.activation, b.ph, b.pw, b.sh, b.sw,
                     tensors[4 * i].data(), tensors[4 * i + 1].data(), affine, tensors[4 * i + 3].data()});
  }
  HeadSpec head;
  head.flatten = flatten;
  head.in_features = flatten == Flatten::kChw ? channels * h * w : channels;
  head.n_tags = kTags;
  std::vector<std::vector<float>> dense;
  dense.reserve(2 * hidden.size() + 2);
  const auto add = [&](int in, int out) {
    dense.push_back(random_vector(static_cast<std::size_t>(in) * out, 1 / std::sqrt(in)));
    dense.push_back(random_vector(out, 0.5));
  };
  for (int out : hidden) {
    const int in = head.last_features();
    add(in, out);
    const Activation activation = head.hidden.empty() ? Activation::kElu : Activation::kRelu;
    head.hidden.push_back({in, out, activation, dense[dense.size() - 2].data(), dense.back().data()});
  }
  add(head.last_features(), kTags);
  head.weight = dense[dense.size() - 2].data();
  head.bias = dense.back().data();
  const std::vector<float> x = random_vector(static_cast<std::size_t>(kBatch) * height * width, 1);
  std::vector<std::vector<float>> results;
  for (const char* isa : {"generic", "neon"}) {
    setenv("FCNTAG_FORCE_ISA", isa, 1);
    const NetworkSpec spec = {specs, head, height, width};
    Network network(spec, Precision::kFloat32, Algorithm::kAuto, std::make_shared<ThreadPool>(2));
    const std::size_t features = static_cast<std::size_t>(kBatch) * head.last_features();
    std::vector<float> scores(kBatch * kTags), values(features + kBatch * kTags, std::nanf(""));
    NetworkOutputs out;
    out.scores = scores.data();
    out.features = values.data();
    out.logits = values.data() + features;
    network.run(x.data(), kBatch, height, width, out);
    results.push_back(values);
  }
  const double error = relative_l2(results[1], results[0]);
  std::printf("%-10s relative L2 %.1e\n", name, error);
  return error < 2e-6;  // two float32 computations, each within 1e-6 per block of the exact one
}

// One front end by either instruction set.
bool check_melspec(int n_fft) {
  constexpr int kMels = 40, kFrames = 31, kSamples = 8000;
  std::vector<std::vector<float>> results;
  std::vector<float> wave = random_vector(kSamples, 0.1), out(kMels * kFrames);
  for (const char* isa : {"generic", "neon"}) {
    setenv("FCNTAG_FORCE_ISA", isa, 1);
    MelSpecConfig c{};
    c.n_fft = n_fft;
    c.hop_length = 256;
    c.pad_mode = PadMode::kReflect;
    c.n_mels = kMels;
    c.power_exponent = 1;
    c.magnitude = n_fft != kFft;
    c.float16 = n_fft == kFft;
    c.log = n_fft == kFft ? LogKind::kLog10p1 : LogKind::kLn;
    c.gain = 1e4;
    c.amin = 1e-10;
    c.normalization = Normalization::kNone;
    for (int i = 0; i < n_fft; ++i) c.window.push_back(0.5 - 0.5 * std::cos(2 * 3.14159265358979 * i / n_fft));
    const int n_bins = c.n_bins(), step = (n_bins - 23) / kMels;
    c.filters.assign(static_cast<std::size_t>(kMels) * n_bins, 0);
    for (int m = 0; m < kMels; ++m) {
      for (int k = 0; k < 9; ++k) c.filters[static_cast<std::size_t>(m) * n_bins + m * step + k] = 0.01 * (k + 1);
    }
    MelSpec melspec(c, std::make_shared<ThreadPool>(2));
    std::fill(out.begin(), out.end(), std::nanf(""));
    melspec.run(wave.data(), 1, kSamples, n_fft / 2, kFrames, out.data());
    results.push_back(out);
  }
  const double error = relative_l2(results[1], results[0]);
  std::printf("melspec %-4d relative L2 %.1e\n", n_fft, error);
  return error < 1e-6;  // double throughout; a float16 step of one value would show as 1e-5
}

}  // namespace

int main() {
  using A = fcntag::Activation;
  bool ok = true;
  ok &= check_network(
      "odd",
      {{5, 3, A::kRelu, false, 2, 2, 2, 2}, {7, 3, A::kElu, true, 2, 3, 1, 2}, {33, 1, A::kNone, false, 1, 1, 1, 1}},
      21, 29);
  ok &= check_network("overlap", {{40, 3, A::kRelu, true, 4, 1, 2, 2}, {17, 3, A::kRelu, true, 2, 1, 3, 2}}, 31, 20);
  ok &= check_network("winograd",
                      {{20, 3, A::kRelu, false, 1, 1, 1, 1},
                       {36, 3, A::kElu, true, 2, 3, 2, 3},
                       {300, 3, A::kRelu, false, 1, 1, 1, 1},
                       {24, 3, A::kNone, true, 3, 5, 3, 5}},
                      30, 41);
  ok &= check_network("hidden", {{24, 3, A::kRelu, false, 3, 5, 3, 5}}, 20, 31, {70, 37});
  ok &= check_network("mean", {{24, 3, A::kElu, true, 2, 2, 2, 2}}, 20, 31, {129}, fcntag::Flatten::kMean);
  // A kernel of its own, passes of every radix (2 and 8; 5; 3 and 7; 11 and 13), and a chirp.
  for (int n_fft : {512, 256, 400, 441, 286, 1103, 8192}) ok &= check_melspec(n_fft);
  std::printf("%s\n", ok ? "NEON agrees with the plain code" : "NEON DIFFERS");
  return ok ? 0 : 1;
}
