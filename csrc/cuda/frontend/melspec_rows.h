// The kernel that gives every band of a clip mean 0 and deviation 1 (Normalization::kStandardizePerMel).
#pragma once

#include <cstdint>

#include "cuda/device/device.h"
#include "cuda/frontend/melspec_finish.h"
#include "cuda/io.h"

namespace fcntag {
namespace cuda {

struct RowParams {
  const Io* io;
  const double* raw;    // [batch][n_mels][n_frames]
  const float* maxima;  // [batch][maxima_count], or null: no floor. A reference would shift values and mean alike.
  float* out;           // [batch][n_mels][n_frames], or [batch][n_frames][n_mels] if time_mel
  int maxima_count, n_mels, n_frames;
  bool time_mel;
  float top_db;  // 0: no floor
};

// Grid: (n_mels, clips).
FCNTAG_KERNEL(kFinishThreads, 1)
melspec_rows(const FCNTAG_GRID_CONSTANT RowParams p) {
  const int thread = static_cast<int>(threadIdx.x), clip = static_cast<int>(blockIdx.y);
  const int m = static_cast<int>(blockIdx.x);
  dev::release_successors();
  dev::wait_for_predecessors();
  if (clip >= p.io->count) return;
  double* slots = reinterpret_cast<double*>(dev::shared_memory());
  double floor = -INFINITY;
  if (p.maxima != nullptr && p.top_db > 0) floor = clip_maximum(p, clip, reinterpret_cast<float*>(slots)) - p.top_db;
  const int64_t image = static_cast<int64_t>(clip) * p.n_mels * p.n_frames;
  const double* row = p.raw + image + static_cast<int64_t>(m) * p.n_frames;
  // Values are taken from the first one on: a band that never changes is then 0 exactly, where 1e-10 in the divisor
  // would make the rounding of its mean large.
  const double first = above_floor(row[0], floor);
  double sum = 0, squares = 0;
  for (int t = thread; t < p.n_frames; t += kFinishThreads) sum += above_floor(row[t], floor) - first;
  const double mean = block_sum(sum, slots) / p.n_frames;
  for (int t = thread; t < p.n_frames; t += kFinishThreads) {
    const double d = above_floor(row[t], floor) - first - mean;
    squares += d * d;
  }
  const double factor = 1 / (sqrt(block_sum(squares, slots) / p.n_frames) + 1e-10);
  float* out = p.out + image + (p.time_mel ? m : static_cast<int64_t>(m) * p.n_frames);
  const int64_t apart = p.time_mel ? p.n_mels : 1;
  for (int t = thread; t < p.n_frames; t += kFinishThreads) {
    out[t * apart] = static_cast<float>((above_floor(row[t], floor) - first - mean) * factor);
  }
}

}  // namespace cuda
}  // namespace fcntag
