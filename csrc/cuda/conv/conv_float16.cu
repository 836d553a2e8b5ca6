#include "cuda/conv/conv_kernels.h"

namespace fcntag {
namespace cuda {

const std::vector<ConvKernel>& conv_kernels_float16() {
  static const std::vector<ConvKernel> kernels = tensor_core_kernels<MmaMath<Float16>>();
  return kernels;
}

}  // namespace cuda
}  // namespace fcntag
