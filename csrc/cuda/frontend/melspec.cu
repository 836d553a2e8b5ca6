#include "cuda/frontend/melspec.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "check.h"
#include "cuda/frontend/melspec_finish.h"
#include "cuda/frontend/melspec_kernel.h"
#include "cuda/launch.h"

namespace fcntag {
namespace cuda {

namespace {

constexpr double kPi = 3.14159265358979323846;
constexpr int kFinishValues = 4;        // per thread of melspec_finish, in a clip of usual size
constexpr int kFinishBlocks = 1024;     // of a clip, at most: each of them reads all maxima
constexpr int kMaxClips = 65535;        // of a launch: gridDim.y
constexpr int64_t kMaxImage = 1 << 30;  // values of one clip's log-mel: indices are int

static_assert(kFft == 512 && kBins == 257, "the kernel's FFT");

int frame_blocks(int n_frames) { return (n_frames + kMelFrames - 1) / kMelFrames; }

template <typename T>
DeviceMemory to_device(const std::vector<T>& values) {
  DeviceMemory memory(values.size() * sizeof(T));
  copy_to_device(memory.template as<void>(), values.data(), values.size() * sizeof(T), nullptr);
  synchronize(nullptr);
  return memory;
}

template <typename Real>
Complex<Real> turn(int numerator, int denominator) {  // e^(-2 pi i numerator / denominator)
  const double angle = 2 * kPi * (numerator % denominator) / denominator;
  return {static_cast<Real>(std::cos(angle)), static_cast<Real>(-std::sin(angle))};
}

}  // namespace

MelSpec::MelSpec(const MelSpecConfig& config, bool double_precision)
    : config_(config), double_precision_(double_precision) {
  const MelFilters filters = sparse_filters(config_);
  FCNTAG_CHECK(config_.n_fft == kFft, "melspec: n_fft=", config_.n_fft, "; on a GPU: 256, 512");
  FCNTAG_CHECK(!config_.magnitude, "melspec: spectrum='magnitude'; on a GPU: power");
  FCNTAG_CHECK(config_.log == LogKind::kDb || config_.log == LogKind::kLog10p1,
               "melspec: this logarithm is not built for a GPU; built: db, log10p1");
  FCNTAG_CHECK(config_.normalization != Normalization::kStandardizePerMel,
               "melspec: normalization='standardize_per_mel' is not built for a GPU");
  FCNTAG_CHECK(config_.n_mels <= kMaxMels, "melspec: n_mels=", config_.n_mels, "; on a GPU: 1 to ", kMaxMels);
  if (double_precision_) {
    upload<double>(filters);
  } else {
    upload<float>(filters);
  }
  if (config_.n_mfcc > 0) {
    mfcc_ = std::make_unique<Mfcc>(config_.n_mels, config_.n_mfcc, config_.normalization, config_.scale, config_.shift);
    return;
  }
  scale_ = to_device(config_.scale);
  shift_ = to_device(config_.shift);
}

template <typename Real>
void MelSpec::upload(const MelFilters& filters) {
  std::vector<Complex<Real>> window, inner, outer;
  for (int i = 0; i < kFft / 2; ++i) {
    window.push_back({static_cast<Real>(config_.window[2 * i] / 2), static_cast<Real>(config_.window[2 * i + 1] / 2)});
    inner.push_back(turn<Real>(i / 16 * (i % 16), 256));
  }
  for (int k = 0; k < kFft / 4; ++k) outer.push_back(turn<Real>(k, kFft));

  // Weights of 32 neighbouring bands, [longest of them][32]: the lanes of a warp read neighbours.
  std::vector<MelBand> bands;
  std::vector<Real> weights;
  for (int first = 0; first < config_.n_mels; first += 32) {
    const std::size_t base = weights.size();
    const int group = std::min(32, config_.n_mels - first);
    for (int m = first; m < first + group; ++m) {
      const int count = filters.count[m];
      bands.push_back({static_cast<uint16_t>(filters.begin[m]), static_cast<uint16_t>(count),
                       static_cast<int32_t>(base + m - first)});
      weights.resize(std::max(weights.size(), base + 32 * static_cast<std::size_t>(count)));
      for (int i = 0; i < count; ++i) {
        weights[base + 32 * i + m - first] = static_cast<Real>(filters.weights[filters.offset[m] + i]);
      }
    }
  }
  window_ = to_device(window);
  inner_twiddles_ = to_device(inner);
  outer_twiddles_ = to_device(outer);
  bands_ = to_device(bands);
  weights_ = to_device(weights);
}

bool MelSpec::needs_maximum() const { return config_.log == LogKind::kDb && (config_.ref_max || config_.top_db > 0); }

std::size_t MelSpec::log_mel_bytes(int batch, int n_frames) const {
  if (!mfcc_) return 0;
  const std::size_t values = static_cast<std::size_t>(batch) * config_.n_mels * n_frames;
  return (values * sizeof(float) + 255) / 256 * 256;  // the buffer behind it stays aligned
}

std::size_t MelSpec::scratch_bytes(int batch, int n_frames) const {
  std::size_t bytes = 0;
  if (config_.normalization == Normalization::kStandardize) bytes += kMomentParts * 2 * sizeof(double);
  if (needs_maximum()) bytes += frame_blocks(n_frames) * sizeof(float);
  return log_mel_bytes(batch, n_frames) + bytes * batch;
}

std::size_t MelSpec::memory_bytes() const {
  return window_.bytes() + inner_twiddles_.bytes() + outer_twiddles_.bytes() + bands_.bytes() + weights_.bytes() +
         scale_.bytes() + shift_.bytes() + (mfcc_ ? mfcc_->memory_bytes() : 0);
}

void MelSpec::run(const Io* io, const float* waves, int batch, int64_t n_samples, int64_t pad_left, int n_frames,
                  float* out, void* scratch, Stream stream) const {
  const MelSpecConfig& c = config_;
  FCNTAG_CHECK(n_samples > 0 && n_frames > 0, "melspec: n_samples=", n_samples, ", n_frames=", n_frames);
  FCNTAG_CHECK(static_cast<int64_t>(c.n_mels) * n_frames <= kMaxImage, "melspec: ", n_frames,
               " frames of n_mels=", c.n_mels, " in one clip; at most ", kMaxImage / c.n_mels);
  FCNTAG_CHECK(batch >= 0 && batch <= kMaxClips, "melspec: ", batch, " clips; at most ", kMaxClips);
  const std::size_t expected = c.normalization == Normalization::kScalar     ? 1
                               : c.normalization == Normalization::kPerMel   ? static_cast<std::size_t>(c.n_rows())
                               : c.normalization == Normalization::kPerFrame ? static_cast<std::size_t>(n_frames)
                                                                             : 0;
  FCNTAG_CHECK(c.scale.size() == expected, "melspec: scale of ", c.scale.size(), " values; ", expected, " are needed");
  FCNTAG_CHECK(!mfcc_ || n_frames >= kDeltaWidth, "melspec: n_frames=", n_frames, "; deltas need at least ",
               kDeltaWidth);
  if (batch == 0) return;
  float* log_mel = mfcc_ ? static_cast<float*>(scratch) : out;
  void* rest = static_cast<uint8_t*>(scratch) + log_mel_bytes(batch, n_frames);
  if (double_precision_) {
    run_in<double>(io, waves, batch, n_samples, pad_left, n_frames, log_mel, rest, stream);
  } else {
    run_in<float>(io, waves, batch, n_samples, pad_left, n_frames, log_mel, rest, stream);
  }
  if (mfcc_) mfcc_->run(io, log_mel, batch, n_frames, out, stream);
}

template <typename Real>
void MelSpec::run_in(const Io* io, const float* waves, int batch, int64_t n_samples, int64_t pad_left, int n_frames,
                     float* out, void* scratch, Stream stream) const {
  const MelSpecConfig& c = config_;
  const int blocks = frame_blocks(n_frames);
  const bool standardize = c.normalization == Normalization::kStandardize;
  double* moments = standardize ? static_cast<double*>(scratch) : nullptr;
  float* maxima = nullptr;
  if (needs_maximum()) {  // behind the moments, which are aligned so
    const std::size_t moment_bytes = standardize ? sizeof(double) * 2 * kMomentParts * batch : 0;
    maxima = reinterpret_cast<float*>(static_cast<uint8_t*>(scratch) + moment_bytes);
  }
  const MelScale kind = mfcc_ ? MelScale::kNone : scale_kind(c.normalization);  // MFCC are scaled at their end
  const MelScaling scaling = {scale_.as<float>(), shift_.as<float>(), kind};
  const bool finish = needs_maximum() || standardize;

  MelParams<Real> p = {};
  p.io = io;
  p.waves = waves;
  p.out = out;
  p.maxima = maxima;
  p.window = window_.as<Complex<Real>>();
  p.inner_twiddles = inner_twiddles_.as<Complex<Real>>();
  p.outer_twiddles = outer_twiddles_.as<Complex<Real>>();
  p.bands = bands_.as<MelBand>();
  p.weights = weights_.as<Real>();
  p.scaling = scaling;
  if (finish) p.scaling.kind = MelScale::kNone;
  p.n_samples = n_samples;
  p.pad_left = pad_left;
  p.hop_length = c.hop_length;
  p.n_frames = n_frames;
  p.n_mels = c.n_mels;
  p.power_exponent = c.power_exponent;
  p.reflect = c.pad_mode == PadMode::kReflect;
  p.float16 = c.float16;
  p.db = c.log == LogKind::kDb;
  p.time_mel = c.time_mel;
  p.gain = static_cast<Real>(c.gain);
  p.amin = static_cast<Real>(c.amin);
  const std::size_t stage_bytes = c.time_mel ? 0 : sizeof(float) * kMelStage * c.n_mels;
  const LaunchShape shape = {dim3(blocks, batch), kMelThreads, kMelFixedBytes + stage_bytes};
  launch(&melspec<Real>, shape, stream, p);
  if (!finish) return;

  FinishParams f = {};
  f.io = io;
  f.data = out;
  f.maxima = maxima;
  f.moments = moments;
  f.scaling = scaling;
  f.size = c.n_mels * n_frames;
  f.maxima_count = blocks;
  f.n_mels = c.n_mels;
  f.n_frames = n_frames;
  f.ref_max = c.ref_max;
  f.time_mel = c.time_mel;
  f.top_db = c.top_db > 0 ? static_cast<float>(c.top_db) : 0.0f;
  const std::size_t slots = kFinishWarps * sizeof(double);
  if (standardize) launch(&melspec_moments, {dim3(kMomentParts, batch), kFinishThreads, slots}, stream, f);
  const int wanted = (f.size + kFinishThreads * kFinishValues - 1) / (kFinishThreads * kFinishValues);
  launch(&melspec_finish<Real>, {dim3(std::min(wanted, kFinishBlocks), batch), kFinishThreads, slots}, stream, f);
}

}  // namespace cuda
}  // namespace fcntag
