#include "cpu/mfcc.h"

#include <algorithm>

#include "model/filters.h"

namespace fcntag {

namespace {
constexpr int kReach = kDeltaWidth / 2;
}  // namespace

void mfcc_frames(const double* log_mel, int frames, int n_mels, double floor, double ref, const double* dct, int n_mfcc,
                 double* out) {
  for (int t = 0; t < frames; ++t, log_mel += n_mels, out += n_mfcc) {
    std::fill_n(out, n_mfcc, 0.0);
    // Coefficients are the inner loop: their sums are independent, so that they fill vectors and no sum changes its
    // order.
    for (int m = 0; m < n_mels; ++m) {
      const double v = std::max(log_mel[m], floor) - ref;
      const double* row = dct + static_cast<std::size_t>(m) * n_mfcc;
      for (int c = 0; c < n_mfcc; ++c) out[c] += v * row[c];
    }
  }
}

void mfcc_deltas(const double* coefficients, int n_frames, int n_mfcc, int c, int t, double* slope, double* curve) {
  // A derivative of the order of the fitted polynomial is the same all over its window. Frames near an end therefore
  // take that of the nearest frame with a whole window.
  const int centre = std::clamp(t, kReach, n_frames - kReach - 1);
  const double* at = coefficients + static_cast<std::size_t>(centre) * n_mfcc + c;
  double first = 0, second = -20 * *at;
  for (int x = 1; x <= kReach; ++x) {
    const double later = at[x * n_mfcc], earlier = at[-x * n_mfcc];
    first += x * (later - earlier);                  // sum of x y / sum of x^2
    second += (3 * x * x - 20) * (later + earlier);  // twice the parabola's coefficient
  }
  *slope = first / 60;
  *curve = second / 462;
}

}  // namespace fcntag
