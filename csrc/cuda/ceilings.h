// The most that the GPU at hand can do: the denominators of every "% of the ceiling".
#pragma once

#include "cuda/conv/conv_params.h"
#include "cuda/runtime.h"

namespace fcntag {
namespace cuda {

// TFLOP/s of the multiply-adds that `precision` uses (mma.sync, or float32 fma), from registers, on random data.
double arithmetic_tflops(Precision precision, const DeviceInfo& device);
// GB/s of a copy within device memory, bytes read plus bytes written, on buffers larger than the caches.
double copy_gigabytes(const DeviceInfo& device);

}  // namespace cuda
}  // namespace fcntag
