#include "melspec.h"

#include <algorithm>
#include <cmath>

#include "check.h"

namespace fcntag {

extern const MelSpecKernels melspec_kernels_generic;
#if defined(__aarch64__)
extern const MelSpecKernels melspec_kernels_neon;
#endif
#if defined(__x86_64__)
extern const MelSpecKernels melspec_kernels_avx2, melspec_kernels_avx512;
#endif

const MelSpecKernels& melspec_kernels(Isa isa) {
  switch (isa) {
#if defined(__aarch64__)
    case Isa::kNeon:
      return melspec_kernels_neon;
#endif
#if defined(__x86_64__)
    case Isa::kAvx2:
      return melspec_kernels_avx2;
    case Isa::kAvx512:
      return melspec_kernels_avx512;
#endif
    default:
      return melspec_kernels_generic;
  }
}

namespace {
constexpr double kPi = 3.14159265358979323846;
constexpr int kTaskFrames = 64;                              // frames of a task: a few microseconds of work each
constexpr std::size_t kGroupDoubles = std::size_t{2} << 20;  // log-mels of the segments in work: 16 MB
}  // namespace

MelSpec::MelSpec(MelSpecConfig config, std::shared_ptr<ThreadPool> pool)
    : config_(std::move(config)), kernels_(&melspec_kernels(choose_isa())), pool_(std::move(pool)) {
  const MelSpecConfig& c = config_;
  filters_ = sparse_filters(c);
  for (int k = 0; k < kFft; ++k) {
    twiddles_.push_back(std::cos(2 * kPi * k / kFft));
    twiddles_.push_back(std::sin(2 * kPi * k / kFft));
  }
  scratch_.resize(pool_->threads());
  for (auto& s : scratch_) s.resize(kMelSpecScratch);
}

std::size_t MelSpec::memory_bytes() const {
  return (log_mel_.capacity() + twiddles_.size() + filters_.weights.size() + scratch_.size() * kMelSpecScratch) *
         sizeof(double);
}

void MelSpec::run(const float* waves, int batch, int64_t n_samples, int64_t pad_left, int n_frames, float* out) {
  const MelSpecConfig& c = config_;
  FCNTAG_CHECK(n_samples > 0 && n_frames > 0, "melspec: n_samples=", n_samples, ", n_frames=", n_frames);
  FCNTAG_CHECK(c.pad_mode != PadMode::kReflect || pad_left == 0 || n_samples > pad_left,
               "melspec: n_samples=", n_samples, " is too short to reflect ", pad_left);
  const std::size_t expected = c.normalization == Normalization::kScalar     ? 1
                               : c.normalization == Normalization::kPerMel   ? static_cast<std::size_t>(c.n_mels)
                               : c.normalization == Normalization::kPerFrame ? static_cast<std::size_t>(n_frames)
                                                                             : 0;
  FCNTAG_CHECK(c.scale.size() == expected, "melspec: scale of ", c.scale.size(), " values; ", expected, " are needed");
  const std::size_t image = static_cast<std::size_t>(n_frames) * c.n_mels;
  const int group = static_cast<int>(std::clamp<std::size_t>(kGroupDoubles / image, 1, std::max(batch, 1)));
  const bool alone = c.frames_stand_alone();
  if (!alone) log_mel_.resize(std::max(log_mel_.size(), image * group));
  const int tasks = (n_frames + kTaskFrames - 1) / kTaskFrames;
  for (int begin = 0; begin < batch; begin += group) {
    const int segments = std::min(group, batch - begin);
    pool_->run(static_cast<int64_t>(segments) * tasks, [&](int64_t i, int worker) {
      const int64_t segment = i / tasks;
      MelSpecTask task;
      task.config = &config_;
      task.filters = &filters_;
      task.twiddles = twiddles_.data();
      task.wave = waves + (begin + segment) * n_samples;
      task.n_samples = n_samples;
      task.pad_left = pad_left;
      task.frame_begin = static_cast<int>(i % tasks) * kTaskFrames;
      task.frame_end = std::min(task.frame_begin + kTaskFrames, n_frames);
      task.log_mel = nullptr;
      if (!alone)
        task.log_mel = log_mel_.data() + segment * image + static_cast<std::size_t>(task.frame_begin) * c.n_mels;
      task.out = out + (begin + segment) * image;
      task.n_frames = n_frames;
      task.scratch = scratch_[worker].data();
      kernels_->log_mel(task);
    });
    if (alone) continue;
    pool_->run(segments,
               [&](int64_t i, int) { normalize(log_mel_.data() + i * image, n_frames, out + (begin + i) * image); });
  }
}

// Reference and floor of the dB scale need the whole segment, so they come here, with the normalisation.
void MelSpec::normalize(const double* log_mel, int n_frames, float* out) const {
  const MelSpecConfig& c = config_;
  const std::size_t size = static_cast<std::size_t>(n_frames) * c.n_mels;
  double ref = 0, floor = -1e300;
  if (c.log == LogKind::kDb && (c.ref_max || c.top_db > 0)) {
    const double maximum = *std::max_element(log_mel, log_mel + size);
    if (c.top_db > 0) floor = maximum - c.top_db;
    if (c.ref_max) ref = maximum;
  }
  double scale = 1, shift = 0;
  if (c.normalization == Normalization::kScalar) {
    scale = c.scale[0];
    shift = c.shift[0];
  } else if (c.normalization == Normalization::kStandardize) {
    double sum = 0, squares = 0;
    for (std::size_t i = 0; i < size; ++i) sum += std::max(log_mel[i], floor) - ref;
    const double mean = sum / static_cast<double>(size);
    for (std::size_t i = 0; i < size; ++i) {
      const double d = std::max(log_mel[i], floor) - ref - mean;
      squares += d * d;
    }
    scale = 1 / (std::sqrt(squares / static_cast<double>(size)) + 1e-10);
    shift = -mean * scale;
  }
  const bool per_mel = c.normalization == Normalization::kPerMel;
  const bool per_frame = c.normalization == Normalization::kPerFrame;
  // Tiles of frames keep the transposed writes within a cache line's reach.
  constexpr int kTile = 16;
  for (int t0 = 0; t0 < n_frames; t0 += kTile) {
    const int t1 = std::min(t0 + kTile, n_frames);
    for (int m = 0; m < c.n_mels; ++m) {
      for (int t = t0; t < t1; ++t) {
        const double v = std::max(log_mel[static_cast<std::size_t>(t) * c.n_mels + m], floor) - ref;
        const double a = per_mel ? c.scale[m] : per_frame ? c.scale[t] : scale;
        const double b = per_mel ? c.shift[m] : per_frame ? c.shift[t] : shift;
        const std::size_t at =
            c.time_mel ? static_cast<std::size_t>(t) * c.n_mels + m : static_cast<std::size_t>(m) * n_frames + t;
        out[at] = static_cast<float>(a * v + b);
      }
    }
  }
}

}  // namespace fcntag
