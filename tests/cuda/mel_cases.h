// Front ends and signals that check_frontend.cpp runs: the models', and what the document allows beside them.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "cuda/frontend/melspec.h"
#include "frontend_reference.h"

namespace fcntag {
namespace mel_cases {

using Floats = std::vector<float>;
using reference::Doubles;
using reference::kPi;

inline std::mt19937 generator;

inline double uniform(double low, double high) { return std::uniform_real_distribution<double>(low, high)(generator); }

inline Floats noise(std::size_t count, double scale) {
  std::normal_distribution<float> distribution(0.0f, static_cast<float>(scale));
  Floats values(count);
  for (float& x : values) x = distribution(generator);
  return values;
}

struct MelCase {
  const char* name;
  int n_mels, hop, n_samples, pad_left, n_frames;
  PadMode pad;
  LogKind log;
  Normalization normalization;
  int exponent = 1;
  bool float16 = false, time_mel = false, ref_max = false;
  double top_db = 0;
  int batch = 2, count = 2;
  const char* signal = "noise";
  bool identity = false;  // filters are unit rows: the STFT
  double scale = 0.3;
  int n_fft = kFft;
  bool magnitude = false;
  double amin = 1e-10, offset = 0;
  bool wide = false;  // every band spans most of the bins
  bool many = false;  // so many blocks that it runs where it is asked for by name only
};

constexpr PadMode kZeros = PadMode::kConstant, kReflect = PadMode::kReflect;
using L = LogKind;
constexpr LogKind kDb = LogKind::kDb, kLog = LogKind::kLog10p1;
using N = Normalization;

const MelCase kMelCases[] = {
    {"musicnn", 96, 256, 5000, 256, 20, kZeros, kLog, N::kNone, 1, true, true, false, 0, 3, 2},
    {"won2020", 96, 256, 4321, 256, 17, kReflect, kDb, N::kScalar, 1, false, false, false, 0, 3, 3},
    {"choi2016", 96, 256, 6000, 256, 24, kReflect, kDb, N::kPerFrame, 2, false, false, false, 80, 3, 2},
    {"choi2017", 96, 256, 5120, 256, 20, kZeros, kDb, N::kNone, 1, false, false, true, 80, 1, 1, "fading"},
    {"choi2017 keras 2", 96, 256, 5000, 121, 20, kZeros, kDb, N::kStandardize, 1, false, false, true, 80, 3, 2},
    {"standardised, no floor", 40, 256, 3000, 256, 12, kZeros, kLog, N::kStandardize, 1, false, true, false, 0, 2, 2},
    {"standardised, floor only", 5, 256, 2000, 0, 6, kZeros, kDb, N::kStandardize, 1, false, true, false, 30, 2, 2},
    {"valid", 33, 200, 3000, 0, 13, kZeros, kDb, N::kPerMel},
    {"per mel, time by mel", 33, 200, 3000, 0, 13, kZeros, kDb, N::kPerMel, 1, false, true},
    {"per frame, time by mel, floor", 31, 256, 3000, 256, 12, kReflect, kDb, N::kPerFrame, 1, false, true, false, 20},
    {"reference without floor", 64, 256, 3000, 256, 12, kReflect, kDb, N::kPerMel, 1, false, false, true},
    {"odd hop", 20, 37, 1001, 256, 28, kReflect, kDb, N::kNone},
    {"one sample short", 9, 256, 2303, 0, 8, kZeros, kDb, N::kNone},
    {"one sample early", 9, 256, 2304, 1, 8, kZeros, kDb, N::kNone},
    {"hop of one", 3, 1, 530, 256, 19, kZeros, kLog, N::kNone},
    {"gaps between frames", 12, 1000, 5000, 100, 6, kZeros, kDb, N::kNone},
    {"frames beyond the end", 12, 256, 1000, 256, 11, kZeros, kLog, N::kNone, 1, false, false, false, 0, 2, 1},
    {"frames far beyond, reflected", 12, 256, 400, 256, 17, kReflect, kDb, N::kNone},
    {"shorter than a frame", 12, 256, 300, 256, 2, kReflect, kDb, N::kNone},
    {"shorter than the pad", 12, 256, 100, 256, 1, kReflect, kDb, N::kNone},
    {"two samples", 12, 256, 2, 256, 1, kReflect, kDb, N::kNone},
    {"one sample", 12, 256, 1, 256, 1, kReflect, kDb, N::kNone},
    {"one sample and zeros", 12, 256, 1, 256, 3, kZeros, kDb, N::kNone},
    {"one frame", 96, 256, 512, 0, 1, kZeros, kDb, N::kNone, 1, false, false, true, 60},
    {"nine frames", 1, 256, 2560, 0, 9, kZeros, kDb, N::kScalar},
    {"512 bands", 512, 256, 2600, 256, 11, kZeros, kDb, N::kPerMel, 2, false, false, false, 90},
    {"512 bands, time by mel", 512, 256, 2600, 256, 11, kZeros, kLog, N::kPerMel, 1, true, true},
    {"silence", 96, 256, 3000, 256, 12, kReflect, kDb, N::kNone, 1, false, false, true, 80, 2, 2, "silence"},
    {"silence, standardised", 96, 256, 3000, 256, 12, kReflect, kDb, N::kStandardize, 1, false, false, true, 80, 2, 2,
     "silence"},
    {"impulse", 96, 256, 3000, 256, 12, kZeros, kDb, N::kNone, 1, false, false, false, 0, 2, 2, "impulse"},
    {"sine on a bin", 257, 256, 3000, 0, 10, kZeros, kDb, N::kNone, 1, false, false, false, 0, 2, 2, "sine", true},
    {"loud, float16", 96, 256, 3000, 256, 12, kZeros, kLog, N::kNone, 2, true, true, false, 0, 2, 2, "noise", false, 9},
    {"quiet, float16", 96, 256, 3000, 256, 12, kZeros, kDb, N::kNone, 1, true, false, false, 0, 2, 2, "noise", false,
     1e-4},
    {"stft 128", 128, 256, 4000, 256, 16, kReflect, kDb, N::kNone, 1, false, false, false, 80, 2, 2, "noise", true},
    {"stft 257", 257, 256, 4000, 256, 16, kReflect, kLog, N::kNone, 1, false, true, false, 0, 2, 2, "noise", true},
    {"empty batch", 96, 256, 3000, 256, 12, kZeros, kDb, N::kNone, 1, false, false, true, 80, 0, 0},
    {"nothing exists", 96, 256, 3000, 256, 12, kZeros, kDb, N::kStandardize, 1, false, false, true, 80, 2, 0},
};

// Bands like mel filters: triangles, narrow ones below; a few rows of zeros, one band over everything.
inline Doubles make_filters(const MelCase& c) {
  const int n_bins = c.n_fft / 2 + 1;
  Doubles filters(static_cast<std::size_t>(c.n_mels) * n_bins);
  for (int m = 0; m < c.n_mels; ++m) {
    double* row = filters.data() + static_cast<std::size_t>(m) * n_bins;
    if (c.identity) {
      row[m] = 1;
      continue;
    }
    const double centre = c.n_fft / 2 * std::pow((m + 0.5) / c.n_mels, 1.5);
    const double width = c.wide ? 0.4 * c.n_fft : 1 + 12.0 * m / c.n_mels;
    for (int k = 0; k < n_bins; ++k) row[k] = std::max(0.0, 1 - std::fabs(k - centre) / width) / width;
    if (m == 7) std::fill(row, row + n_bins, 0.0);
    if (m == 2) std::fill(row, row + n_bins, 1.0 / n_bins);
  }
  return filters;
}

inline MelSpecConfig make_config(const MelCase& c) {
  MelSpecConfig config = {};
  config.hop_length = c.hop;
  config.pad_mode = c.pad;
  config.n_fft = c.n_fft;
  config.magnitude = c.magnitude;
  config.offset = c.offset;
  for (int i = 0; i < c.n_fft; ++i) config.window.push_back(0.5 - 0.5 * std::cos(2 * kPi * (i + 0.25) / c.n_fft));
  config.filters = make_filters(c);
  config.n_mels = c.n_mels;
  config.power_exponent = c.exponent;
  config.float16 = c.float16;
  config.log = c.log;
  config.gain = 10000;
  config.amin = c.amin;
  config.ref_max = c.ref_max;
  config.top_db = c.top_db;
  config.normalization = c.normalization;
  const int values = c.normalization == N::kScalar     ? 1
                     : c.normalization == N::kPerMel   ? c.n_mels
                     : c.normalization == N::kPerFrame ? c.n_frames
                                                       : 0;
  for (int i = 0; i < values; ++i) {
    config.scale.push_back(static_cast<float>(uniform(-1.5, 1.5)));
    config.shift.push_back(static_cast<float>(uniform(-2, 2)));
  }
  config.time_mel = c.time_mel;
  return config;
}

inline Floats make_signal(const MelCase& c, int n) {
  Floats wave = noise(n, c.scale);
  const std::string kind = c.signal;
  for (int i = 0; i < n; ++i) {
    if (kind == "silence") wave[i] = 0;
    if (kind == "impulse") wave[i] = i == 777 % n;
    if (kind == "sine")
      wave[i] = static_cast<float>(0.8 * std::sin(2 * kPi * 19 * i / c.n_fft) + 0.1);  // and a constant
    if (kind == "fading") wave[i] *= static_cast<float>(std::exp(-12.0 * i / n));      // ends far below the floor
  }
  return wave;
}

}  // namespace mel_cases
}  // namespace fcntag
