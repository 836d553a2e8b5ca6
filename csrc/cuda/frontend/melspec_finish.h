// The kernels that finish a log-mel in place where a clip's maximum, mean or deviation decides its values.
#pragma once

#include <cstdint>

#include "cuda/device/device.h"
#include "cuda/frontend/block_maximum.h"
#include "cuda/frontend/scaling.h"
#include "cuda/io.h"

namespace fcntag {
namespace cuda {

constexpr int kFinishWarps = 8;
constexpr int kFinishThreads = 32 * kFinishWarps;
constexpr int kMomentParts = 64;  // of a clip, each summed by one block

struct FinishParams {
  const Io* io;
  float* data;          // [batch][size], raw values; finish() turns them into the output
  const float* maxima;  // [batch][maxima_count], or null: no floor, no reference
  double* moments;      // [batch][kMomentParts]{sum, squares of deviations}, or null: not standardised
  MelScaling scaling;
  int size, maxima_count, n_mels, n_frames;
  bool ref_max, time_mel;
  float top_db;  // 0: no floor
};

// The clip's maximum, of FinishParams or RowParams; called by all threads of a block.
template <typename Params>
FCNTAG_DEVICE float clip_maximum(const Params& p, int clip, float* slots) {
  float maximum = -INFINITY;
  const float* maxima = p.maxima + static_cast<int64_t>(clip) * p.maxima_count;
  for (int i = static_cast<int>(threadIdx.x); i < p.maxima_count; i += kFinishThreads)
    maximum = fmaxf(maximum, maxima[i]);
  return block_maximum<kFinishWarps>(maximum, slots);
}

// The sum of all threads' `value`, for all of them, in a fixed order.
FCNTAG_DEVICE double block_sum(double value, double* slots) {
  const int thread = static_cast<int>(threadIdx.x);
  FCNTAG_UNROLL for (int other = 16; other > 0; other /= 2) value += dev::shuffle_xor(value, other);
  dev::sync();  // other threads may still read the slots
  if ((thread & 31) == 0) slots[thread >> 5] = value;
  dev::sync();
  double sum = 0;
  FCNTAG_UNROLL for (int warp = 0; warp < kFinishWarps; ++warp) sum += slots[warp];
  return sum;
}

template <typename Real>
FCNTAG_DEVICE Real above_floor(Real value, Real floor) {
  return value > floor ? value : floor;
}

FCNTAG_DEVICE int part_size(int size) { return (size + kMomentParts - 1) / kMomentParts; }
// Values in `part`; 0 in the last ones where the clip is too small for all.
FCNTAG_DEVICE int part_count(int size, int part) {
  const int64_t left = size - static_cast<int64_t>(part) * part_size(size);
  return left <= 0 ? 0 : left < part_size(size) ? static_cast<int>(left) : part_size(size);
}

// Sum and squared deviations from the own mean of one part of a clip. Grid: (kMomentParts, clips).
FCNTAG_KERNEL(kFinishThreads, 1)
melspec_moments(const FCNTAG_GRID_CONSTANT FinishParams p) {
  const int thread = static_cast<int>(threadIdx.x), clip = static_cast<int>(blockIdx.y);
  const int part = static_cast<int>(blockIdx.x);
  dev::release_successors();
  dev::wait_for_predecessors();
  if (clip >= p.io->count) return;
  double* slots = reinterpret_cast<double*>(dev::shared_memory());
  float floor = -INFINITY;
  if (p.maxima != nullptr && p.top_db > 0) floor = clip_maximum(p, clip, reinterpret_cast<float*>(slots)) - p.top_db;
  const int count = part_count(p.size, part);
  const float* data = p.data + static_cast<int64_t>(clip) * p.size + static_cast<int64_t>(part) * part_size(p.size);
  double sum = 0, squares = 0;
  for (int i = thread; i < count; i += kFinishThreads) sum += above_floor(data[i], floor);
  sum = block_sum(sum, slots);
  const double mean = count == 0 ? 0 : sum / count;
  for (int i = thread; i < count; i += kFinishThreads) {
    const double d = above_floor(data[i], floor) - mean;
    squares += d * d;
  }
  squares = block_sum(squares, slots);
  double* moments = p.moments + 2 * (static_cast<int64_t>(clip) * kMomentParts + part);
  if (thread == 0) moments[0] = sum, moments[1] = squares;
}

// Mean and deviation of a clip from those of its parts; every warp finds them for itself.
FCNTAG_DEVICE void clip_moments(const FinishParams& p, int clip, double* mean, double* deviation) {
  static_assert(kMomentParts == 64, "a lane takes two parts");
  const int lane = static_cast<int>(threadIdx.x) & 31;
  const double* moments = p.moments + 2 * static_cast<int64_t>(clip) * kMomentParts;
  double sum = moments[2 * lane] + moments[2 * (lane + 32)];
  FCNTAG_UNROLL for (int other = 16; other > 0; other /= 2) sum += dev::shuffle_xor(sum, other);
  *mean = sum / p.size;
  double squares = 0;
  FCNTAG_UNROLL for (int part = lane; part < kMomentParts; part += 32) {
    const int count = part_count(p.size, part);
    const double d = count == 0 ? 0 : moments[2 * part] / count - *mean;
    squares += moments[2 * part + 1] + count * d * d;
  }
  FCNTAG_UNROLL for (int other = 16; other > 0; other /= 2) squares += dev::shuffle_xor(squares, other);
  *deviation = sqrt(squares / p.size);
}

// Floor, reference and normalisation, in place. Grid: (any, clips).
template <typename Real>
FCNTAG_KERNEL(kFinishThreads, 1)
melspec_finish(const FCNTAG_GRID_CONSTANT FinishParams p) {
  const int clip = static_cast<int>(blockIdx.y);
  dev::release_successors();
  dev::wait_for_predecessors();
  if (clip >= p.io->count) return;
  float floor = -INFINITY;
  Real offset = 0, factor = 1;
  if (p.maxima != nullptr) {
    const float maximum = clip_maximum(p, clip, reinterpret_cast<float*>(dev::shared_memory()));
    if (p.top_db > 0) floor = maximum - p.top_db;
    if (p.ref_max) offset = maximum;
  }
  if (p.moments != nullptr) {  // a reference shifts values and mean alike
    double mean, deviation;
    clip_moments(p, clip, &mean, &deviation);
    offset = static_cast<Real>(mean);
    factor = static_cast<Real>(1 / (deviation + 1e-10));
  }
  float* data = p.data + static_cast<int64_t>(clip) * p.size;
  const int step = static_cast<int>(gridDim.x) * kFinishThreads;
  for (int64_t at = blockIdx.x * kFinishThreads + threadIdx.x; at < p.size; at += step) {
    const int i = static_cast<int>(at), row = p.time_mel ? p.n_mels : p.n_frames;
    const int slow = i / row, fast = i - slow * row;
    const Real value = (above_floor(data[i], floor) - offset) * factor;
    data[i] = scaled(p.scaling, value, p.time_mel ? fast : slow, p.time_mel ? slow : fast);
  }
}

}  // namespace cuda
}  // namespace fcntag
