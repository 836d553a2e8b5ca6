// Which shapes of conv_block are compiled, for the .cu files that hold them.
#pragma once

#include <vector>

#include "cuda/conv/conv_kernel.h"
#include "cuda/conv/conv_plan.h"

namespace fcntag {
namespace cuda {

template <typename Shape>
ConvKernel conv_kernel() {
  return {Shape::kHalves,    Shape::kWarpsM, Shape::kWarpsN, Shape::kChunked, Shape::kMinimumCapability,
          &conv_block<Shape>};
}

template <typename Math>
std::vector<ConvKernel> tensor_core_kernels() {
  return {
      conv_kernel<ConvShape<Math, 20, 2, 4, false>>(),  // windows of 20 elements: (4, 5), the heart of FCN-4
      conv_kernel<ConvShape<Math, 16, 2, 4, false>>(),
      conv_kernel<ConvShape<Math, 16, 4, 2, false>>(),  // up to 64 output channels
      conv_kernel<ConvShape<Math, 8, 8, 1, false>>(),   // up to 32
      conv_kernel<ConvShape<Math, 8, 2, 4, true>>(),    // deep layers, whose sums may be split
      conv_kernel<ConvShape<Math, 8, 1, 4, true>>(),
      conv_kernel<ConvShape<Math, 4, 1, 4, true>>(),  // small batches
      conv_kernel<ConvShape<Math, 4, 2, 2, true>>(),
  };
}

// One function a .cu file; conv_kernels() chooses.
const std::vector<ConvKernel>& conv_kernels_float32();
const std::vector<ConvKernel>& conv_kernels_tf32();
const std::vector<ConvKernel>& conv_kernels_tf32x3();
const std::vector<ConvKernel>& conv_kernels_float16();
const std::vector<ConvKernel>& conv_kernels_bfloat16();

}  // namespace cuda
}  // namespace fcntag
