#include "cuda/conv/conv_kernels.h"

namespace fcntag {
namespace cuda {

const std::vector<ConvKernel>& conv_kernels_tf32x3() {
  static const std::vector<ConvKernel> kernels = built_kernels<MmaMath<Tf32x3>, kBuiltTf32x3>();
  return kernels;
}

}  // namespace cuda
}  // namespace fcntag
