#include "cuda/conv/conv_kernels.h"

namespace fcntag {
namespace cuda {

const std::vector<ConvKernel>& conv_kernels_bfloat16() {
  static const std::vector<ConvKernel> kernels = built_kernels<MmaMath<Bfloat16>, kBuiltTensorCore>();
  return kernels;
}

}  // namespace cuda
}  // namespace fcntag
