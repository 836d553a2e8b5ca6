// mfcc: log-mel [n_frames, n_mels] -> coefficients, their deltas, their delta-deltas: [3 * n_mfcc, n_frames].
//
// The definitions are librosa's. Coefficients are the first n_mfcc of the orthonormal DCT-II over the bands. Deltas are
// Savitzky-Golay derivatives of width 9 over time: the first derivative of a line and the second one of a parabola. The
// first and last 4 frames take the fit of the nearest whole window ("interp"). csrc/cuda/frontend/mfcc.h is the same on
// a GPU.
#pragma once

namespace fcntag {

// log_mel [frames][n_mels] -> out [frames][n_mfcc]. A value v of log_mel counts as max(v, floor) - ref.
void mfcc_frames(const double* log_mel, int frames, int n_mels, double floor, double ref, const double* dct, int n_mfcc,
                 double* out);

// The slope and curvature of coefficient `c` around frame t, from coefficients [n_frames][n_mfcc]. n_frames is at least
// kDeltaWidth.
void mfcc_deltas(const double* coefficients, int n_frames, int n_mfcc, int c, int t, double* slope, double* curve);

}  // namespace fcntag
