// The most that the GPU at hand can do: the denominators of every "% of the ceiling".
#pragma once

#include "cuda/conv/conv_params.h"
#include "cuda/runtime.h"

namespace fcntag {
namespace cuda {

// TFLOP/s of the multiply-adds that `precision` uses (mma.sync, or float32 fma), from registers, on operands of seven
// random bits. This is the ceiling of kernels that are built of mma.sync: Hopper's wgmma reaches more.
double arithmetic_tflops(Precision precision, const DeviceInfo& device);
// GB/s of a copy within device memory, bytes read plus bytes written, on buffers larger than the caches.
double copy_gigabytes(const DeviceInfo& device);

// A kernel that keeps one multiprocessor busy for about so long. What the host puts on the stream meanwhile stands in
// line when it ends, so that events behind it time the GPU alone, and not the host's calls.
class Spin {
 public:
  // Finds the number of steps on `stream`, and waits for that. The current device is the stream's.
  Spin(double seconds, Stream stream);
  void put(Stream stream) const;

 private:
  DeviceMemory out_;
  int steps_ = 0;
};

}  // namespace cuda
}  // namespace fcntag
