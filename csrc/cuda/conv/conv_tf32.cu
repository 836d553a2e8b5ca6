#include "cuda/conv/conv_kernels.h"

namespace fcntag {
namespace cuda {

const std::vector<ConvKernel>& conv_kernels_tf32() {
  static const std::vector<ConvKernel> kernels = built_kernels<MmaMath<Tf32>, kBuiltTensorCore>();
  return kernels;
}

}  // namespace cuda
}  // namespace fcntag
