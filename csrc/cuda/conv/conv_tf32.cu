#include "cuda/conv/conv_kernels.h"

namespace fcntag {
namespace cuda {

const std::vector<ConvKernel>& conv_kernels_tf32() {
  static const std::vector<ConvKernel> kernels = tensor_core_kernels<MmaMath<Tf32>>();
  return kernels;
}

}  // namespace cuda
}  // namespace fcntag
