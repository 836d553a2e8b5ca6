#include "cuda/frontend/melspec.h"

#include <algorithm>
#include <complex>
#include <vector>

#include "check.h"
#include "cuda/frontend/fft_plan.h"
#include "cuda/frontend/frame_params.h"
#include "cuda/frontend/melspec_finish.h"
#include "cuda/frontend/melspec_kernel.h"
#include "cuda/frontend/melspec_rows.h"
#include "cuda/frontend/scaling.h"
#include "cuda/frontend/tables.h"
#include "cuda/launch.h"

namespace fcntag {
namespace cuda {

namespace {

constexpr int kFinishValues = 4;     // per thread of melspec_finish, in a clip of usual size
constexpr int kFinishBlocks = 1024;  // of a clip, at most: each of them reads all maxima
constexpr int kMaxClips = 65535;     // of a launch: gridDim.y
constexpr std::size_t kFinishSlots = kFinishWarps * sizeof(double);  // shared memory of a kernel that finishes
constexpr int64_t kMaxImage = 1 << 30;                               // values of one clip's log-mel: indices are int

static_assert(kFft == 512 && kBins == 257, "the kernel's FFT");

int frame_blocks(int n_frames) { return (n_frames + kMelFrames - 1) / kMelFrames; }

bool needs_maximum(const MelSpecConfig& c) { return c.log == LogKind::kDb && (c.ref_max || c.top_db > 0); }

bool in_double(const MelSpecConfig& c, bool double_precision) {
  return double_precision || c.normalization == Normalization::kStandardizePerMel;
}

}  // namespace

MelSpec::MelSpec(const MelSpecConfig& config, bool double_precision)
    : config_(config), double_precision_(in_double(config, double_precision)) {
  const MelFilters filters = sparse_filters(config_);
  if (GeneralMel::is_for(config_)) {
    general_ = std::make_unique<GeneralMel>(config_, filters, double_precision_);
  } else if (double_precision_) {
    upload_tables<double>(filters);
  } else {
    upload_tables<float>(filters);
  }
  if (config_.n_mfcc > 0) {
    mfcc_ = std::make_unique<Mfcc>(config_.n_mels, config_.n_mfcc, config_.normalization, config_.scale, config_.shift);
    return;
  }
  if (standardizes()) arrivals_ = upload(std::vector<int>(kMaxClips));
  scale_ = upload(config_.scale);
  shift_ = upload(config_.shift);
}

template <typename Real>
void MelSpec::upload_tables(const MelFilters& filters) {
  std::vector<std::complex<double>> window, inner, outer;
  for (int i = 0; i < kFft / 2; ++i) {
    window.emplace_back(config_.window[2 * i] / 2, config_.window[2 * i + 1] / 2);
    inner.push_back(turn(i / 16 * (i % 16), 256));
  }
  for (int k = 0; k < kFft / 4; ++k) outer.push_back(turn(k, kFft));

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
  window_ = upload_complex<Real>(window);
  inner_twiddles_ = upload_complex<Real>(inner);
  outer_twiddles_ = upload_complex<Real>(outer);
  bands_ = upload(bands);
  weights_ = upload(weights);
}

// Every part may have to be aligned as a double or a complex number is.
MelSpec::Scratch MelSpec::scratch(const MelSpecConfig& c, const GeneralPlan* general, int batch, int n_frames) {
  Scratch s = {};
  const auto part = [&s](std::size_t bytes) {
    const std::size_t begin = s.end;
    s.end += (bytes + 255) / 256 * 256;
    return begin;
  };
  const std::size_t values = static_cast<std::size_t>(batch) * c.n_mels * n_frames;
  const std::size_t clips = batch, maxima = general ? general->most_blocks(n_frames) : frame_blocks(n_frames);
  s.log_mel = part(c.n_mfcc > 0 ? values * sizeof(float) : 0);
  s.raw = part(c.normalization == Normalization::kStandardizePerMel ? values * sizeof(double) : 0);
  const bool standardizes = c.normalization == Normalization::kStandardize;
  s.parts = part(standardizes ? clips * kMomentParts * 2 * sizeof(double) : 0);
  s.moments = part(standardizes ? clips * sizeof(ClipMoments) : 0);
  s.maxima = part(needs_maximum(c) ? clips * maxima * sizeof(float) : 0);
  s.buffers = part(general ? general->scratch_bytes(batch, n_frames) : 0);
  return s;
}

std::size_t MelSpec::scratch_bytes(int batch, int n_frames) const {
  return scratch(config_, plan(), batch, n_frames).end;
}

std::size_t MelSpec::planned_bytes(const MelSpecConfig& c, bool double_precision, int batch, int n_frames, int device) {
  const MelFilters filters = sparse_filters(c);
  const bool exact = in_double(c, double_precision);
  const std::size_t shared_limit = device_info(device).shared_bytes;
  const GeneralPlan general(c, filters, exact, shared_limit);
  const std::size_t arrivals = c.normalization == Normalization::kStandardize ? kMaxClips * sizeof(int) : 0;
  if (GeneralMel::is_for(c)) return general.table_bytes + arrivals + scratch(c, &general, batch, n_frames).end;
  const std::size_t numbers = filters.weights.size() + 3 * kFft;  // and a few gaps between the weights
  return numbers * (exact ? sizeof(double) : sizeof(float)) + arrivals + scratch(c, nullptr, batch, n_frames).end;
}

std::size_t MelSpec::memory_bytes() const {
  return window_.bytes() + inner_twiddles_.bytes() + outer_twiddles_.bytes() + bands_.bytes() + weights_.bytes() +
         scale_.bytes() + shift_.bytes() + arrivals_.bytes() + (general_ ? general_->memory_bytes() : 0) +
         (mfcc_ ? mfcc_->memory_bytes() : 0);
}

int MelSpec::maxima_count(int batch, int n_frames) const {
  return general_ ? plan()->blocks(batch, n_frames) : frame_blocks(n_frames);
}

// Of the log-mel, also where MFCC are made of it.
ClipFinish MelSpec::clip_finish(int batch, int n_frames, const void* scratch) const {
  const MelSpecConfig& c = config_;
  const uint8_t* memory = static_cast<const uint8_t*>(scratch);
  const Scratch parts = MelSpec::scratch(c, plan(), batch, n_frames);
  ClipFinish f = {};
  if (needs_maximum(c)) f.maxima = reinterpret_cast<const float*>(memory + parts.maxima);
  if (standardizes()) f.moments = reinterpret_cast<const ClipMoments*>(memory + parts.moments);
  f.scaling = {scale_.as<float>(), shift_.as<float>(), mfcc_ ? MelScale::kNone : scale_kind(c.normalization)};
  f.size = c.n_mels * n_frames;
  f.maxima_count = maxima_count(batch, n_frames);
  f.top_db = needs_maximum(c) && c.top_db > 0 ? static_cast<float>(c.top_db) : 0.0f;
  f.needed = (f.maxima != nullptr || f.moments != nullptr) && c.normalization != Normalization::kStandardizePerMel;
  f.ref_max = c.ref_max;
  f.time_mel = c.time_mel;
  f.in_double = double_precision_;
  return f;
}

ClipFinish MelSpec::finish(int batch, int n_frames, const void* scratch) const {
  if (mfcc_) return {};  // they are made of a log-mel that is finished
  return clip_finish(batch, n_frames, scratch);
}

Repoint MelSpec::run(const IoSource& io, const float* waves, int batch, int64_t n_samples, int64_t pad_left,
                     int n_frames, float* out, void* scratch, Stream stream) const {
  return run_log_mel(io, waves, batch, n_samples, pad_left, n_frames, out, scratch, false, stream);
}

Repoint MelSpec::run_raw(const IoSource& io, const float* waves, int batch, int64_t n_samples, int64_t pad_left,
                         int n_frames, float* out, void* scratch, Stream stream) const {
  return run_log_mel(io, waves, batch, n_samples, pad_left, n_frames, out, scratch, true, stream);
}

Repoint MelSpec::run_log_mel(const IoSource& source, const float* waves, int batch, int64_t n_samples, int64_t pad_left,
                             int n_frames, float* out, void* scratch, bool raw, Stream stream) const {
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
  if (batch == 0) return {};
  const Io* io = source.shared();
  uint8_t* memory = static_cast<uint8_t*>(scratch);
  const Scratch parts = MelSpec::scratch(c, plan(), batch, n_frames);
  const ClipFinish left = clip_finish(batch, n_frames, scratch);
  const bool by_rows = c.normalization == Normalization::kStandardizePerMel;

  GeneralMel::Run frames = {};
  frames.io = source;
  frames.waves = waves;
  frames.batch = batch;
  frames.n_samples = n_samples;
  frames.pad_left = pad_left;
  frames.n_frames = n_frames;
  frames.out = mfcc_ ? reinterpret_cast<float*>(memory + parts.log_mel) : out;
  if (by_rows) frames.raw = reinterpret_cast<double*>(memory + parts.raw);
  if (needs_maximum(c)) frames.maxima = reinterpret_cast<float*>(memory + parts.maxima);
  frames.buffers = memory + parts.buffers;
  frames.scale = scale_.as<float>();
  frames.shift = shift_.as<float>();
  frames.scaled = !mfcc_ && !left.needed;  // MFCC are scaled at their end
  Repoint repoint;
  if (general_) {
    repoint = general_->run(frames, stream);
  } else {
    repoint = double_precision_ ? run_frames<double>(frames, stream) : run_frames<float>(frames, stream);
  }

  if (by_rows) {
    const RowParams p = {io,       frames.raw, frames.maxima, out,        left.maxima_count,
                         c.n_mels, n_frames,   c.time_mel,    left.top_db};
    launch(&melspec_rows, {dim3(c.n_mels, batch), kFinishThreads, kFinishSlots}, stream, p);
  } else if (standardizes()) {
    const MomentsParams p = {io,
                             frames.out,
                             frames.maxima,
                             reinterpret_cast<double*>(memory + parts.parts),
                             reinterpret_cast<ClipMoments*>(memory + parts.moments),
                             arrivals_.as<int>(),
                             left.size,
                             left.maxima_count,
                             left.top_db};
    launch(&melspec_moments, {dim3(kMomentParts, batch), kFinishThreads, kFinishSlots}, stream, p);
  }
  if (left.needed && (!raw || mfcc_)) {
    FinishParams p = {};
    p.io = io;
    p.data = frames.out;
    p.finish = left;
    p.columns = c.time_mel ? c.n_mels : n_frames;
    p.by_columns = divisor(p.columns);
    const int wanted = (left.size + kFinishThreads * kFinishValues - 1) / (kFinishThreads * kFinishValues);
    const int blocks = std::min(wanted, kFinishBlocks);
    p.step_rows = blocks * kFinishThreads / p.columns;
    p.step_columns = blocks * kFinishThreads % p.columns;
    launch(double_precision_ ? &melspec_finish<double> : &melspec_finish<float>,
           {dim3(blocks, batch), kFinishThreads, kFinishSlots}, stream, p);
  }
  if (mfcc_) mfcc_->run(io, frames.out, batch, n_frames, out, stream);
  return repoint;
}

// The kernel of 512 points.
template <typename Real>
Repoint MelSpec::run_frames(const GeneralMel::Run& run, Stream stream) const {
  const MelSpecConfig& c = config_;
  MelParams<Real> p = frame_params<MelParams, Real>(c, run);
  p.window = window_.as<Complex<Real>>();
  p.inner_twiddles = inner_twiddles_.as<Complex<Real>>();
  p.outer_twiddles = outer_twiddles_.as<Complex<Real>>();
  p.bands = bands_.as<MelBand>();
  p.weights = weights_.as<Real>();
  p.db = c.log == LogKind::kDb;
  const std::size_t stage_bytes = c.time_mel ? 0 : sizeof(float) * kMelStage * c.n_mels;
  const LaunchShape shape = {dim3(frame_blocks(run.n_frames), run.batch), kMelThreads, kMelFixedBytes + stage_bytes};
  return launch_first(&melspec<Real>, shape, stream, p);
}

}  // namespace cuda
}  // namespace fcntag
