// A clip's samples, beyond its ends too, and the logarithm that both kernels of the front end take.
#pragma once

#include <cstdint>

#include "cuda/device/device.h"

namespace fcntag {
namespace cuda {

// i % period, for i of a few periods: most are below one, where a GPU's division would take a hundred instructions.
FCNTAG_DEVICE int64_t modulo(int64_t i, int64_t period) {
  int64_t whole = period;
  FCNTAG_NO_UNROLL while (whole <= i) whole *= 2;
  FCNTAG_NO_UNROLL while (whole > period) {
    whole /= 2;
    if (i >= whole) i -= whole;
  }
  return i;
}

// Sample at position i of the clip extended beyond its ends, as numpy.pad does.
FCNTAG_DEVICE float sample(const float* wave, int64_t n_samples, int64_t i, bool reflect) {
  if (i < 0 || i >= n_samples) {
    if (!reflect) return 0;
    const int64_t period = 2 * (n_samples - 1);
    if (period == 0) return wave[0];
    i = modulo(i < 0 ? -i : i, period);
    if (i >= n_samples) i = period - i;
  }
  return wave[i];
}

FCNTAG_DEVICE float natural_log(float x) { return logf(x); }
FCNTAG_DEVICE double natural_log(double x) { return log(x); }

// The nearest value of half precision. The originals held float32 before; beyond 65504 it became infinite and their
// scores NaN.
template <typename Real>
FCNTAG_DEVICE Real in_half_precision(Real power) {
  const float kept = power < Real(65504) ? static_cast<float>(power) : 65504.0f;
  return dev::from_float16(dev::to_float16(kept));
}

}  // namespace cuda
}  // namespace fcntag
