#include "cuda/conv/conv_kernels.h"

namespace fcntag {
namespace cuda {

const std::vector<ConvKernel>& conv_kernels_float16() {
  static const std::vector<ConvKernel> kernels = built_kernels<MmaMath<Float16>, kBuiltTensorCore>();
  return kernels;
}

}  // namespace cuda
}  // namespace fcntag
