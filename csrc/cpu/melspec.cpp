#include "cpu/melspec.h"

#include <algorithm>
#include <cmath>

#include "check.h"
#include "cpu/kernel_table.h"
#include "cpu/mfcc.h"
#include "model/filters.h"

namespace fcntag {

namespace {
constexpr double kPi = 3.14159265358979323846;
// Frames of a task, of up to 512 samples. Every frame is a few microseconds of work: fewer would not pay for handing
// the task out, more would leave threads idle at the end. Longer frames are fewer, and always whole groups of lanes.
constexpr int kTaskFrames = 64;
constexpr int kMinTaskFrames = 8;

// Doubles of a worker for a general transform: complex points, bins, frames of floats that reach beyond the signal, and
// alignment.
std::size_t general_scratch(const FftPlan& plan, int lanes) {
  return (2 * plan.work() + plan.n_fft / 2 + 1 + (plan.n_fft + 1) / 2) * lanes + 16;
}
// Segments go through in groups whose log-mels take up to 16 MB, so that memory does not grow with the batch.
constexpr std::size_t kGroupDoubles = std::size_t{2} << 20;
}  // namespace

MelSpec::MelSpec(MelSpecConfig config, std::shared_ptr<ThreadPool> pool)
    : config_(std::move(config)), kernels_(kernels(choose_isa()).melspec), pool_(std::move(pool)) {
  const MelSpecConfig& c = config_;
  filters_ = sparse_filters(c);
  task_frames_ = kTaskFrames;
  if (c.n_fft == kFft) {
    for (int k = 0; k < kFft; ++k) {
      twiddles_.push_back(std::cos(2 * kPi * k / kFft));
      twiddles_.push_back(std::sin(2 * kPi * k / kFft));
    }
    scratch_doubles_ = kMelSpecScratch;
  } else {
    fft_ = std::make_unique<FftPlan>(c.n_fft);
    while (task_frames_ > kMinTaskFrames && task_frames_ * c.n_fft > kTaskFrames * kFft) task_frames_ /= 2;
    scratch_doubles_ = general_scratch(*fft_, kernels_->lanes);
  }
  if (c.n_mfcc > 0) dct_ = dct_table(c.n_mels, c.n_mfcc);
  scratch_.resize(pool_->threads());
  for (auto& s : scratch_) s.resize(scratch_doubles_);
}

std::size_t MelSpec::memory_bytes() const {
  return (log_mel_.capacity() + mfcc_.capacity() + dct_.size() + twiddles_.size() + filters_.weights.size() +
          scratch_.size() * scratch_doubles_) *
             sizeof(double) +
         (fft_ ? fft_->memory_bytes() : 0);
}

void MelSpec::run(const float* waves, int batch, int64_t n_samples, int64_t pad_left, int n_frames, float* out) {
  const MelSpecConfig& c = config_;
  FCNTAG_CHECK(n_samples > 0 && n_frames > 0, "melspec: n_samples=", n_samples, ", n_frames=", n_frames);
  FCNTAG_CHECK(c.pad_mode != PadMode::kReflect || pad_left == 0 || n_samples > pad_left,
               "melspec: n_samples=", n_samples, " is too short to reflect ", pad_left);
  const std::size_t expected = c.normalization == Normalization::kScalar     ? 1
                               : c.normalization == Normalization::kPerMel   ? static_cast<std::size_t>(c.n_rows())
                               : c.normalization == Normalization::kPerFrame ? static_cast<std::size_t>(n_frames)
                                                                             : 0;
  FCNTAG_CHECK(c.scale.size() == expected, "melspec: scale of ", c.scale.size(), " values; ", expected, " are needed");
  FCNTAG_CHECK(c.n_mfcc == 0 || n_frames >= kDeltaWidth, "melspec: n_frames=", n_frames, "; deltas need at least ",
               kDeltaWidth);
  const std::size_t image = static_cast<std::size_t>(n_frames) * c.n_mels;
  const std::size_t size = static_cast<std::size_t>(n_frames) * c.n_rows();
  const int group = static_cast<int>(std::clamp<std::size_t>(kGroupDoubles / image, 1, std::max(batch, 1)));
  const bool alone = c.frames_stand_alone();
  if (!alone) log_mel_.resize(std::max(log_mel_.size(), image * group));
  if (c.n_mfcc > 0) mfcc_.resize(std::max(mfcc_.size(), size / 3 * group));
  const int tasks = (n_frames + task_frames_ - 1) / task_frames_;
  for (int begin = 0; begin < batch; begin += group) {
    const int segments = std::min(group, batch - begin);
    pool_->run(static_cast<int64_t>(segments) * tasks, [&](int64_t i, int worker) {
      const int64_t segment = i / tasks;
      MelSpecTask task;
      task.config = &config_;
      task.filters = &filters_;
      task.twiddles = twiddles_.data();
      task.fft = fft_.get();
      task.wave = waves + (begin + segment) * n_samples;
      task.n_samples = n_samples;
      task.pad_left = pad_left;
      task.frame_begin = static_cast<int>(i % tasks) * task_frames_;
      task.frame_end = std::min(task.frame_begin + task_frames_, n_frames);
      task.log_mel = nullptr;
      if (!alone)
        task.log_mel = log_mel_.data() + segment * image + static_cast<std::size_t>(task.frame_begin) * c.n_mels;
      task.out = out + (begin + segment) * size;
      task.n_frames = n_frames;
      task.scratch = scratch_[worker].data();
      (fft_ ? kernels_->log_mel_any : kernels_->log_mel)(task);
    });
    if (alone) continue;
    if (c.n_mfcc > 0) {
      coefficients(segments, n_frames, out + begin * size);
      continue;
    }
    pool_->run(segments,
               [&](int64_t i, int) { normalize(log_mel_.data() + i * image, n_frames, out + (begin + i) * image); });
  }
}

namespace {

// A segment's log values v become max(v, floor) - ref.
struct Level {
  double floor = -1e300, ref = 0;
};

Level level_of(const MelSpecConfig& c, const double* log_mel, std::size_t size) {
  Level level;
  if (c.log == LogKind::kDb && (c.ref_max || c.top_db > 0)) {
    const double maximum = *std::max_element(log_mel, log_mel + size);
    if (c.top_db > 0) level.floor = maximum - c.top_db;
    if (c.ref_max) level.ref = maximum;
  }
  return level;
}

}  // namespace

// log_mel_ of `segments` -> out [segments][3 * n_mfcc][n_frames].
void MelSpec::coefficients(int segments, int n_frames, float* out) {
  const MelSpecConfig& c = config_;
  const std::size_t image = static_cast<std::size_t>(n_frames) * c.n_mels;
  const std::size_t plane = static_cast<std::size_t>(n_frames) * c.n_mfcc;
  const int tasks = (n_frames + kTaskFrames - 1) / kTaskFrames;
  std::vector<Level> levels(segments);
  pool_->run(segments, [&](int64_t i, int) { levels[i] = level_of(c, log_mel_.data() + i * image, image); });
  pool_->run(static_cast<int64_t>(segments) * tasks, [&](int64_t i, int) {
    const int64_t segment = i / tasks;
    const int begin = static_cast<int>(i % tasks) * kTaskFrames, frames = std::min(kTaskFrames, n_frames - begin);
    mfcc_frames(log_mel_.data() + segment * image + static_cast<std::size_t>(begin) * c.n_mels, frames, c.n_mels,
                levels[segment].floor, levels[segment].ref, dct_.data(), c.n_mfcc,
                mfcc_.data() + segment * plane + static_cast<std::size_t>(begin) * c.n_mfcc);
  });
  // Deltas reach into other tasks' frames, which are all there only now.
  pool_->run(static_cast<int64_t>(segments) * c.n_mfcc, [&](int64_t i, int) {
    const int64_t segment = i / c.n_mfcc;
    const int row = static_cast<int>(i % c.n_mfcc);
    const double* values = mfcc_.data() + segment * plane;
    float* target = out + segment * 3 * plane;
    for (int t = 0; t < n_frames; ++t) {
      double kinds[3] = {values[static_cast<std::size_t>(t) * c.n_mfcc + row]};
      mfcc_deltas(values, n_frames, c.n_mfcc, row, t, &kinds[1], &kinds[2]);
      for (int kind = 0; kind < 3; ++kind) {
        const int r = kind * c.n_mfcc + row;
        double scale = 1, shift = 0;
        if (c.normalization != Normalization::kNone) {
          const int at = c.normalization == Normalization::kPerMel     ? r
                         : c.normalization == Normalization::kPerFrame ? t
                                                                       : 0;
          scale = c.scale[at];
          shift = c.shift[at];
        }
        target[static_cast<std::size_t>(r) * n_frames + t] = static_cast<float>(scale * kinds[kind] + shift);
      }
    }
  });
}

// Every band by itself: (v - mean) / (deviation + 1e-10), both over the segment's frames. Values count from the first
// frame's, so that a band which never changes is 0 exactly: the 1e-10 would make its rounding large.
void MelSpec::standardize_rows(const double* log_mel, int n_frames, double floor, float* out) const {
  const int n_mels = config_.n_mels;
  std::vector<double> mean(n_mels), factor(n_mels);
  const auto value = [&](int t, int m) {
    return std::max(log_mel[static_cast<std::size_t>(t) * n_mels + m], floor) - std::max(log_mel[m], floor);
  };
  for (int t = 0; t < n_frames; ++t) {
    for (int m = 0; m < n_mels; ++m) mean[m] += value(t, m);
  }
  for (double& x : mean) x /= n_frames;
  for (int t = 0; t < n_frames; ++t) {
    for (int m = 0; m < n_mels; ++m) {
      const double d = value(t, m) - mean[m];
      factor[m] += d * d;
    }
  }
  for (double& x : factor) x = 1 / (std::sqrt(x / n_frames) + 1e-10);
  for (int t = 0; t < n_frames; ++t) {
    for (int m = 0; m < n_mels; ++m) {
      const std::size_t at =
          config_.time_mel ? static_cast<std::size_t>(t) * n_mels + m : static_cast<std::size_t>(m) * n_frames + t;
      out[at] = static_cast<float>((value(t, m) - mean[m]) * factor[m]);
    }
  }
}

// The reference and the floor of the dB scale need the whole segment. They are applied here, with the normalisation.
void MelSpec::normalize(const double* log_mel, int n_frames, float* out) const {
  const MelSpecConfig& c = config_;
  const std::size_t size = static_cast<std::size_t>(n_frames) * c.n_mels;
  const auto [floor, ref] = level_of(c, log_mel, size);
  double scale = 1, shift = 0;
  if (c.normalization == Normalization::kScalar) {
    scale = c.scale[0];
    shift = c.shift[0];
  } else if (c.normalization == Normalization::kStandardizePerMel) {
    return standardize_rows(log_mel, n_frames, floor, out);  // the reference goes with the mean
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
