// mfcc: log-mel [n_frames, n_mels] -> coefficients, their deltas, their delta-deltas: [3 * n_mfcc, n_frames].
//
// As librosa has them: the orthonormal DCT-II over the bands, its first n_mfcc coefficients; Savitzky-Golay derivatives
// of width 9 over time, the first of a line and the second of a parabola, whose first and last 4 frames take the fit of
// the nearest whole window ("interp"). csrc/cuda/frontend/mfcc.h is the same on a GPU.
#pragma once

namespace fcntag {

// log_mel [frames][n_mels], of which a value v counts as max(v, floor) - ref -> out [frames][n_mfcc].
void mfcc_frames(const double* log_mel, int frames, int n_mels, double floor, double ref, const double* dct, int n_mfcc,
                 double* out);

// Slope and curvature of coefficient `c` around frame t, from coefficients [n_frames][n_mfcc]; n_frames is at least
// kDeltaWidth.
void mfcc_deltas(const double* coefficients, int n_frames, int n_mfcc, int c, int t, double* slope, double* curve);

}  // namespace fcntag
