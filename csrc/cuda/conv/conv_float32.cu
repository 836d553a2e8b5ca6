#include "cuda/conv/conv_kernels.h"

namespace fcntag {
namespace cuda {

const std::vector<ConvKernel>& conv_kernels_float32() {
  static const std::vector<ConvKernel> kernels = built_kernels<SimtMath, kBuiltFloat32>();
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
