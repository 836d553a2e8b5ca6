// Tables of a front end on their way to the device.
#pragma once

#include <complex>
#include <vector>

#include "cuda/frontend/melspec_fft.h"
#include "cuda/upload.h"

namespace fcntag {
namespace cuda {

// A copy of `values` in device memory, rounded to the type that a kernel computes in.
template <typename Real>
DeviceMemory upload_complex(const std::vector<std::complex<double>>& values) {
  std::vector<Complex<Real>> rounded;
  for (const std::complex<double>& v : values) {
    rounded.push_back({static_cast<Real>(v.real()), static_cast<Real>(v.imag())});
  }
  return upload(rounded);
}

}  // namespace cuda
}  // namespace fcntag
