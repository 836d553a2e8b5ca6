// The kernels that finish a log-mel in place where a clip's maximum, mean or deviation decides its values.
#pragma once

#include <cstdint>

#include "cuda/device/device.h"
#include "cuda/divisor.h"
#include "cuda/frontend/clip_values.h"
#include "cuda/io.h"

namespace fcntag {
namespace cuda {

struct FinishParams {
  const Io* io;
  float* data;  // [batch][finish.size], raw values; melspec_finish turns them into the output
  ClipFinish finish;
  PartMoments* moments;  // finish.moments, for melspec_moments to write
  int columns;      // of the log-mel as it is stored
  Divisor by_columns;
  int step_rows, step_columns;  // from a value of a thread of melspec_finish to its next one
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

// Sum and squared deviations from the own mean of one part of a clip. Grid: (kMomentParts, clips).
FCNTAG_KERNEL(kFinishThreads, 1)
melspec_moments(const FCNTAG_GRID_CONSTANT FinishParams p) {
  const int thread = static_cast<int>(threadIdx.x), clip = static_cast<int>(blockIdx.y);
  const int part = static_cast<int>(blockIdx.x);
  dev::release_successors();
  dev::wait_for_predecessors();
  if (clip >= p.io->count) return;
  double* slots = reinterpret_cast<double*>(dev::shared_memory());
  const ClipFinish& f = p.finish;
  float floor = -INFINITY;
  if (f.maxima != nullptr && f.top_db > 0) floor = clip_maximum(f, clip, reinterpret_cast<float*>(slots)) - f.top_db;
  const int count = part_count(f.size, part);
  const float* data = p.data + static_cast<int64_t>(clip) * f.size + static_cast<int64_t>(part) * part_size(f.size);
  double sum = 0, squares = 0;
  for (int i = thread; i < count; i += kFinishThreads) sum += above_floor(data[i], floor);
  sum = block_sum(sum, slots);
  const double mean = count == 0 ? 0 : sum / count;
  for (int i = thread; i < count; i += kFinishThreads) {
    const double d = above_floor(data[i], floor) - mean;
    squares += d * d;
  }
  squares = block_sum(squares, slots);
  if (thread == 0) p.moments[static_cast<int64_t>(clip) * kMomentParts + part] = {sum, mean, squares};
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
