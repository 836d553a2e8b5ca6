// mfcc: log-mel [n_frames, n_mels] -> coefficients, their deltas, their delta-deltas: [3 * n_mfcc, n_frames].
//
// As librosa has them: the orthonormal DCT-II over the bands, its first n_mfcc coefficients; Savitzky-Golay derivatives
// of width 9 over time, the first of a line and the second of a parabola, whose first and last 4 frames take the fit of
// the nearest whole window ("interp"). csrc/cuda/frontend/mfcc.h is the same on a GPU.
#pragma once

#include <cmath>
#include <vector>

namespace fcntag {

constexpr int kDeltaWidth = 9;

// [n_mels][n_mfcc]: sqrt((c ? 2 : 1) / n_mels) cos(pi c (2 m + 1) / (2 n_mels)).
inline std::vector<double> dct_table(int n_mels, int n_mfcc) {
  constexpr double kPi = 3.14159265358979323846;
  std::vector<double> table;
  for (int m = 0; m < n_mels; ++m) {
    for (int c = 0; c < n_mfcc; ++c) {
      const double norm = std::sqrt((c == 0 ? 1.0 : 2.0) / n_mels);
      // The angle is reduced while it is an integer: 4 n_mels steps are a turn.
      table.push_back(norm * std::cos(kPi * (c * (2 * m + 1) % (4 * n_mels)) / (2.0 * n_mels)));
    }
  }
  return table;
}

// log_mel [frames][n_mels], of which a value v counts as max(v, floor) - ref -> out [frames][n_mfcc].
void mfcc_frames(const double* log_mel, int frames, int n_mels, double floor, double ref, const double* dct, int n_mfcc,
                 double* out);

// Slope and curvature of coefficient `c` around frame t, from coefficients [n_frames][n_mfcc]; n_frames is at least
// kDeltaWidth.
void mfcc_deltas(const double* coefficients, int n_frames, int n_mfcc, int c, int t, double* slope, double* curve);

}  // namespace fcntag
