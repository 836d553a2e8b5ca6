// The kernels that finish a log-mel in place where a clip's maximum, mean or deviation decides its values.
#pragma once

#include <cstdint>

#include "cuda/device/arrive.h"
#include "cuda/device/device.h"
#include "cuda/divisor.h"
#include "cuda/frontend/clip_values.h"
#include "cuda/io.h"

namespace fcntag {
namespace cuda {

constexpr int kMomentParts = 64;  // of a clip, each summed by one block

struct FinishParams {
  const Io* io;
  float* data;  // [batch][finish.size], raw values; melspec_finish turns them into the output
  ClipFinish finish;
  int columns;  // of the log-mel as it is stored
  Divisor by_columns;
  int step_rows, step_columns;  // from a value of a thread of melspec_finish to its next one
};

struct MomentsParams {
  const Io* io;
  const float* data;     // [batch][size], raw values
  const float* maxima;   // [batch][maxima_count], or null: no floor
  double* parts;         // [batch][kMomentParts]{sum, squares of deviations}
  ClipMoments* moments;  // [batch]
  int* arrivals;         // [batch]: 0 between launches
  int size, maxima_count;
  float top_db;  // 0: no floor
};

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

FCNTAG_DEVICE int part_size(int size) { return (size + kMomentParts - 1) / kMomentParts; }
// Values in `part`; 0 in the last ones where the clip is too small for all.
FCNTAG_DEVICE int part_count(int size, int part) {
  const int64_t left = size - static_cast<int64_t>(part) * part_size(size);
  return left <= 0 ? 0 : left < part_size(size) ? static_cast<int>(left) : part_size(size);
}

// Mean of a clip, and 1 over its deviation, from sums and squares of deviations of its parts; by one warp.
FCNTAG_DEVICE ClipMoments clip_moments(const double* parts, int size, int lane) {
  static_assert(kMomentParts == 64, "a lane takes two parts");
  const double sums[2] = {dev::load_fresh(parts + 2 * lane), dev::load_fresh(parts + 2 * (lane + 32))};
  double sum = sums[0] + sums[1];
  FCNTAG_UNROLL for (int other = 16; other > 0; other /= 2) sum += dev::shuffle_xor(sum, other);
  const double mean = sum / size;
  double squares = 0;
  FCNTAG_UNROLL for (int i = 0; i < 2; ++i) {
    const int part = lane + 32 * i, count = part_count(size, part);
    const double d = count == 0 ? 0 : sums[i] / count - mean;
    squares += dev::load_fresh(parts + 2 * part + 1) + count * d * d;
  }
  FCNTAG_UNROLL for (int other = 16; other > 0; other /= 2) squares += dev::shuffle_xor(squares, other);
  return {mean, 1 / (sqrt(squares / size) + 1e-10)};
}

// Sum and squared deviations from the own mean of one part of a clip; the last CTA of a clip makes the clip's moments
// of them. Grid: (kMomentParts, clips).
FCNTAG_KERNEL(kFinishThreads, 1)
melspec_moments(const FCNTAG_GRID_CONSTANT MomentsParams p) {
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
  double* parts = p.parts + 2 * static_cast<int64_t>(clip) * kMomentParts;
  if (thread == 0) parts[2 * part] = sum, parts[2 * part + 1] = squares;
  if (!dev::arrive_last(p.arrivals + clip, kMomentParts) || thread >= 32) return;
  const ClipMoments moments = clip_moments(parts, p.size, thread);
  if (thread == 0) p.moments[clip] = moments;
}

// Floor, reference and normalisation, in place. Grid: (any, clips).
template <typename Real>
FCNTAG_KERNEL(kFinishThreads, 1)
melspec_finish(const FCNTAG_GRID_CONSTANT FinishParams p) {
  const int clip = static_cast<int>(blockIdx.y);
  dev::release_successors();
  dev::wait_for_predecessors();
  if (clip >= p.io->count) return;
  const ClipFinish& f = p.finish;
  const ClipValues<Real> values = clip_values<Real>(f, clip, reinterpret_cast<float*>(dev::shared_memory()));
  float* data = p.data + static_cast<int64_t>(clip) * f.size;
  const int first = static_cast<int>(blockIdx.x * kFinishThreads + threadIdx.x);
  int row = divide(first, p.by_columns), column = first - row * p.columns;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kFinishThreads;
  for (int64_t at = first; at < f.size; at += step) {
    data[at] = finished(f, values, data[at], row, column);
    row += p.step_rows;
    column += p.step_columns;
    if (column >= p.columns) {
      column -= p.columns;
      ++row;
    }
  }
}

}  // namespace cuda
}  // namespace fcntag
