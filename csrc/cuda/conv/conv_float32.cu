#include "cuda/conv/conv_kernels.h"

namespace fcntag {
namespace cuda {

const std::vector<ConvKernel>& conv_kernels_float32() {
  static const std::vector<ConvKernel> kernels = {
      conv_kernel<ConvShape<SimtMath, 8, 2, 4, true>>(),
      conv_kernel<ConvShape<SimtMath, 8, 4, 2, true>>(),
      conv_kernel<ConvShape<SimtMath, 8, 8, 1, true>>(),
      conv_kernel<ConvShape<SimtMath, 8, 1, 2, true>>(),
  };
  return kernels;
}

const std::vector<ConvKernel>& conv_kernels(Precision precision) {
  switch (precision) {
    case Precision::kTf32:
      return conv_kernels_tf32();
    case Precision::kTf32x3:
      return conv_kernels_tf32x3();
    case Precision::kFloat16:
      return conv_kernels_float16();
    case Precision::kBfloat16:
      return conv_kernels_bfloat16();
    default:
      return conv_kernels_float32();
  }
}

}  // namespace cuda
}  // namespace fcntag
