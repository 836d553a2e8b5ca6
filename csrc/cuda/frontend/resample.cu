#include "cuda/frontend/resample.h"

#include <algorithm>
#include <numeric>

#include "check.h"
#include "cuda/device/device.h"
#include "cuda/open_io.h"
#include "cuda/upload.h"

namespace fcntag {
namespace cuda {

namespace {

constexpr int kGroup = 8;       // outputs of a thread in one row: they share the input samples that they weigh
constexpr int kThreadRows = 4;  // rows of a thread: they share weights. 4 x 8 sums; 8 x 8 leave too few threads a block
constexpr int kRowLanes = 4;    // neighbouring threads have the same group of other rows: their weights are one access
constexpr int kRows = kThreadRows * kRowLanes;
constexpr int kMaxThreads = 4 * 80;
constexpr int kSharedFloats = 48 * 1024 / 4;
constexpr int kMaxClips = 65535;  // gridDim.y
constexpr std::size_t kMaxWeights = std::size_t{1} << 28;

struct ResampleParams {
  IoSource io;
  const float* weights;  // [taps][unique][8]
  float* out;            // [batch][n_out]
  int64_t n_in, n_out;
  int up, down, first_tap, n_channels;  // the first tap of output n weighs sample floor(n * down / up) + first_tap
  int row_blocks;                       // blocks that share the groups of a period
  ResamplePlan plan;
};

// Mean over the channels in the order of numpy.mean over a contiguous axis: from 8 values on, in eight sums.
FCNTAG_DEVICE float mixed(const float* x, int n) {
  if (n == 1) return x[0];
  float sum = x[0];
  if (n < 8) {
    for (int c = 1; c < n; ++c) sum += x[c];
  } else {
    float sums[8];
    FCNTAG_UNROLL for (int i = 0; i < 8; ++i) sums[i] = x[i];
    int c = 8;
    for (; c + 8 <= n; c += 8) {
      FCNTAG_UNROLL for (int i = 0; i < 8; ++i) sums[i] += x[c + i];
    }
    sum = ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7]));
    for (; c < n; ++c) sum += x[c];
  }
  return sum / static_cast<float>(n);
}

// Where float i of the staged input lies. Groups that are a multiple of 4 samples apart would share a few banks: they
// get a float of padding after every 32, and start at multiples of 4, so that four taps never lie across it.
template <bool kPadded>
FCNTAG_HOST_DEVICE int staged_at(int i) {
  return kPadded ? i + (i >> 5) : i;
}

// Mono samples [start, start + length) of a clip to the staged floats from `target` on; zeros outside the clip. Loads
// of kInFlight samples are on their way at a time: a block has few threads, and memory is far.
template <bool kPadded, int kChannels, int kInFlight>
FCNTAG_DEVICE void stage_row(const float* pcm, int64_t n_in, int n_channels, int64_t start, int length, float* staged,
                             int target) {
  const int64_t last = n_in - start;
  const int begin = start < 0 ? static_cast<int>(-start < length ? -start : length) : 0;
  const int end = last < length ? static_cast<int>(last > 0 ? last : 0) : length;
  const int threads = static_cast<int>(blockDim.x);
  const int channels = kChannels == 0 ? n_channels : kChannels;
  pcm += start * channels;
  for (int first = static_cast<int>(threadIdx.x); first < length; first += kInFlight * threads) {
    float x[kInFlight];
    FCNTAG_UNROLL for (int u = 0; u < kInFlight; ++u) {
      const int i = first + u * threads;
      x[u] = i >= begin && i < end ? mixed(pcm + static_cast<int64_t>(i) * channels, channels) : 0.0f;
    }
    FCNTAG_UNROLL for (int u = 0; u < kInFlight; ++u) {
      const int i = first + u * threads;
      if (i < length) staged[staged_at<kPadded>(target + i)] = x[u];
    }
  }
}

// Input position of the first output of a group.
FCNTAG_DEVICE int64_t group_position(const ResampleParams& p, int64_t group) { return group * kGroup * p.down / p.up; }

template <bool kPadded>
FCNTAG_KERNEL(kMaxThreads, 1)
resample(const FCNTAG_GRID_CONSTANT ResampleParams p) {
  const ResamplePlan& plan = p.plan;
  const int thread = static_cast<int>(threadIdx.x), clip = static_cast<int>(blockIdx.y);
  const int first_row = static_cast<int>(blockIdx.x) / p.row_blocks * plan.rows;
  const int first_group = static_cast<int>(blockIdx.x) % p.row_blocks * plan.groups;  // in the period
  dev::release_successors();
  dev::wait_for_predecessors();
  const Io io = open_io(p.io);
  if (clip >= io.count) return;
  float* staged = reinterpret_cast<float*>(dev::shared_memory());
  const float* pcm = dev::global(io.waves) + clip * io.wave_stride;
  const int64_t start = static_cast<int64_t>(first_row) * plan.period_in + group_position(p, first_group) + p.first_tap;
  for (int row = 0; row < plan.staged_rows; ++row) {
    const int64_t row_start = start + static_cast<int64_t>(row) * plan.period_in;
    const int target = row * plan.row_pitch;
    if (p.n_channels == 1) {
      stage_row<kPadded, 1, 8>(pcm, p.n_in, 1, row_start, plan.staged_length, staged, target);
    } else if (p.n_channels == 2) {
      stage_row<kPadded, 2, 8>(pcm, p.n_in, 2, row_start, plan.staged_length, staged, target);
    } else {
      stage_row<kPadded, 0, 1>(pcm, p.n_in, p.n_channels, row_start, plan.staged_length, staged, target);
    }
  }
  dev::sync();

  const int group = first_group + thread / kRowLanes, row_lane = thread % kRowLanes;
  if (thread / kRowLanes >= plan.groups || group >= plan.period) return;
  int base[kThreadRows];
  FCNTAG_UNROLL for (int r = 0; r < kThreadRows; ++r) {
    const int row = row_lane + kRowLanes * r;  // one that this plan does not have repeats the last
    const int offset = static_cast<int>(group_position(p, group) - group_position(p, first_group));
    base[r] = (row < plan.rows ? row : plan.rows - 1) * plan.row_pitch + (kPadded ? offset & ~3 : offset);
  }
  float sums[kThreadRows][kGroup] = {};
  const float4* weights = reinterpret_cast<const float4*>(p.weights) + 2 * (group % plan.unique);
  FCNTAG_NO_UNROLL for (int k = 0; k < plan.taps; k += 4) {
    float x[kThreadRows][4];
    FCNTAG_UNROLL for (int r = 0; r < kThreadRows; ++r) {
      const float* from = staged + staged_at<kPadded>(base[r] + k);
      FCNTAG_UNROLL for (int i = 0; i < 4; ++i) x[r][i] = from[i];
    }
    FCNTAG_UNROLL for (int i = 0; i < 4; ++i) {
      const float4 a = weights[0], b = weights[1];
      weights += 2 * plan.unique;
      FCNTAG_UNROLL for (int r = 0; r < kThreadRows; ++r) {
        sums[r][0] = fmaf(a.x, x[r][i], sums[r][0]);
        sums[r][1] = fmaf(a.y, x[r][i], sums[r][1]);
        sums[r][2] = fmaf(a.z, x[r][i], sums[r][2]);
        sums[r][3] = fmaf(a.w, x[r][i], sums[r][3]);
        sums[r][4] = fmaf(b.x, x[r][i], sums[r][4]);
        sums[r][5] = fmaf(b.y, x[r][i], sums[r][5]);
        sums[r][6] = fmaf(b.z, x[r][i], sums[r][6]);
        sums[r][7] = fmaf(b.w, x[r][i], sums[r][7]);
      }
    }
  }
  FCNTAG_UNROLL for (int r = 0; r < kThreadRows; ++r) {
    const int row = row_lane + kRowLanes * r;
    if (row >= plan.rows) break;
    const int64_t n = (static_cast<int64_t>(first_row + row) * plan.period + group) * kGroup;
    float* out = p.out + clip * p.n_out + n;
    FCNTAG_UNROLL for (int j = 0; j < kGroup; ++j) {
      if (n + j < p.n_out) out[j] = sums[r][j];
    }
  }
}

// Input samples that `groups` groups reach over.
int64_t span(int64_t groups, int up, int down) { return ((groups - 1) * kGroup * down + up - 1) / up; }

// Floats of shared memory; fills in the staging.
int64_t stage(ResamplePlan* plan, int up, int down) {
  const int64_t length = span(plan->groups, up, down) + plan->taps;
  const bool whole = plan->groups == plan->period;
  const int64_t staged = whole ? static_cast<int64_t>(plan->rows - 1) * plan->period_in + length : length;
  if (staged > kSharedFloats) return staged;
  plan->staged_rows = whole ? 1 : plan->rows;
  plan->staged_length = static_cast<int>(staged);
  plan->row_pitch = whole ? plan->period_in : static_cast<int>((length + 3) / 4 * 4);
  return static_cast<int64_t>(plan->shared_bytes() / sizeof(float));
}

// The most lanes of a block's first warp that read different floats of one bank.
int bank_conflicts(const ResamplePlan& plan, int up, int down) {
  int lanes[32] = {}, most = 0;
  for (int lane = 0; lane < std::min(32, plan.groups * kRowLanes); ++lane) {
    const int at = lane % kRowLanes * plan.row_pitch +
                   static_cast<int>(static_cast<int64_t>(lane / kRowLanes) * kGroup * down / up);
    most = std::max(most, ++lanes[(plan.padded ? staged_at<true>(at & ~3) : at) % 32]);
  }
  return most;
}

ResamplePlan make_plan(int up, int down, int n_taps) {
  ResamplePlan plan = {};
  plan.unique = up / std::gcd(up, kGroup);
  const int64_t unique_in = static_cast<int64_t>(plan.unique) * kGroup * down / up;
  int64_t reach = 0;  // of a group's positions, from the first
  for (int64_t g = 0; g < plan.unique; ++g) {
    reach = std::max(reach, (g * kGroup + kGroup - 1) * down / up - g * kGroup * down / up);
  }
  const auto rounded_taps = [](int64_t taps) { return static_cast<int>((taps + 3) / 4 * 4); };
  FCNTAG_CHECK(n_taps + reach + 3 <= kSharedFloats, "resample: ", down, " to ", up, " samples needs filters of ",
               n_taps, " taps: too many for a GPU; resample on the host");

  // Whole periods if they fit: the number that fills warps with threads and leaves few bank conflicts, but not more
  // than 32 groups, so that short clips fill a GPU. A step of a warp is 2 x 4 loads of weights and `conflicts` x 4 of
  // samples.
  plan.padded = unique_in % 4 == 0;
  plan.taps = rounded_taps(n_taps + reach + (plan.padded ? 3 : 0));
  double best = 0;
  ResamplePlan chosen;
  for (int64_t times = 1; times * plan.unique <= std::max(32, plan.unique); ++times) {
    ResamplePlan trial = plan;
    if (times * plan.unique * kRowLanes > kMaxThreads || times * unique_in > kSharedFloats) break;
    trial.period = trial.groups = static_cast<int>(times * plan.unique);
    trial.rows = kRows;
    trial.period_in = static_cast<int>(times * unique_in);
    if (stage(&trial, up, down) > kSharedFloats) break;
    const double used = static_cast<double>(trial.groups * kRowLanes) / trial.threads();
    const double speed = used / (2 + bank_conflicts(trial, up, down));
    if (speed >= best) best = speed, chosen = trial;
  }
  if (best > 0) return chosen;

  // Else a part of a period, its rows staged one by one.
  FCNTAG_CHECK(unique_in <= INT32_MAX, "resample: ", down, " to ", up, " samples: too little in common");
  plan.padded = false;
  plan.taps = rounded_taps(n_taps + reach);
  plan.period = plan.unique;
  plan.period_in = static_cast<int>(unique_in);
  for (plan.rows = kRows; plan.rows > 0; plan.rows /= 2) {
    for (plan.groups = std::min(32, plan.period); plan.groups > 0; --plan.groups) {
      if (stage(&plan, up, down) > kSharedFloats) continue;
      if (plan.groups >= std::min(8, plan.period) || plan.rows == 1) return plan;
      break;
    }
  }
  fail("resample: ", down, " to ", up, " samples: the rates are too far apart for a GPU; resample on the host");
}

}  // namespace

std::size_t ResamplePlan::shared_bytes() const {
  const int floats = (staged_rows - 1) * row_pitch + staged_length;
  return sizeof(float) * (padded ? staged_at<true>(floats - 1) : staged_at<false>(floats - 1)) + sizeof(float);
}

Resampler::Resampler(int up, int down, const std::vector<float>& phases) : up_(up), down_(down) {
  FCNTAG_CHECK(up > 0 && down > 0 && std::gcd(up, down) == 1, "resample: up=", up, ", down=", down,
               "; must be positive and coprime");
  FCNTAG_CHECK(!phases.empty() && phases.size() % (2 * static_cast<std::size_t>(up)) == 0, "resample: ", phases.size(),
               " taps for ", up, " phases; each must have the same even number");
  FCNTAG_CHECK(phases.size() <= kMaxWeights / kGroup, "resample: a filter of ", phases.size(), " values; at most ",
               kMaxWeights / kGroup);
  n_taps_ = static_cast<int>(phases.size() / up);
  plan_ = make_plan(up, down, n_taps_);
  std::vector<float> weights(static_cast<std::size_t>(plan_.taps) * plan_.unique * kGroup);
  for (int group = 0; group < plan_.unique; ++group) {
    const int64_t base = static_cast<int64_t>(group) * kGroup * down / up;
    for (int j = 0; j < kGroup; ++j) {
      const int64_t numerator = (static_cast<int64_t>(group) * kGroup + j) * down;
      const int64_t shift = numerator / up - (plan_.padded ? base & ~int64_t{3} : base), phase = numerator % up;
      for (int k = 0; k < n_taps_; ++k) {
        weights[((k + shift) * plan_.unique + group) * kGroup + j] = phases[phase * n_taps_ + k];
      }
    }
  }
  weights_ = upload(weights);
}

Repoint Resampler::run(const IoSource& io, int batch, int64_t n_in, int n_channels, float* out, int64_t n_out,
                       Stream stream) const {
  FCNTAG_CHECK(n_channels >= 1 && n_channels <= kMaxChannels, "resample: n_channels=", n_channels, "; allowed: 1 to ",
               kMaxChannels);
  FCNTAG_CHECK(n_in >= 0 && n_out >= 0, "resample: n_in=", n_in, ", n_out=", n_out);
  FCNTAG_CHECK(batch >= 0 && batch <= kMaxClips, "resample: ", batch, " clips; at most ", kMaxClips);
  if (batch == 0 || n_out == 0) return {};
  ResampleParams p = {};
  p.io = io;
  p.weights = weights_.as<float>();
  p.out = out;
  p.n_in = n_in;
  p.n_out = n_out;
  p.up = up_;
  p.down = down_;
  p.first_tap = 1 - n_taps_ / 2;
  p.n_channels = n_channels;
  p.row_blocks = (plan_.period + plan_.groups - 1) / plan_.groups;
  p.plan = plan_;
  const int64_t row_outputs = static_cast<int64_t>(plan_.period) * kGroup * plan_.rows;
  const int64_t blocks = (n_out + row_outputs - 1) / row_outputs * p.row_blocks;
  FCNTAG_CHECK(blocks <= INT32_MAX, "resample: n_out=", n_out, " is too long for one launch");
  const LaunchShape shape = {dim3(static_cast<unsigned>(blocks), batch), static_cast<unsigned>(plan_.threads()),
                             plan_.shared_bytes()};
  return launch_first(plan_.padded ? &resample<true> : &resample<false>, shape, stream, p);
}

}  // namespace cuda
}  // namespace fcntag
