#include "cuda/conv/conv_kernels.h"

namespace fcntag {
namespace cuda {

const std::vector<ConvKernel>& conv_kernels_tf32x3() {
  static const std::vector<ConvKernel> kernels = {
      conv_kernel<ConvShape<MmaMath<Tf32x3>, 4, 2, 4, true>>(),  // with 8 halves, sums and totals would spill
      conv_kernel<ConvShape<MmaMath<Tf32x3>, 4, 8, 1, true>>(),
      conv_kernel<ConvShape<MmaMath<Tf32x3>, 4, 1, 4, true>>(),
  };
  return kernels;
}

}  // namespace cuda
}  // namespace fcntag
