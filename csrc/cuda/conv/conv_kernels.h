// Which shapes of conv_block are compiled, for the .cu files that hold them.
#pragma once

#include <cstddef>
#include <iterator>
#include <utility>
#include <vector>

#include "cuda/conv/conv_kernel.h"
#include "cuda/conv/conv_plan.h"

namespace fcntag {
namespace cuda {

// Parameters of a ConvShape, but for the taps of a stage.
struct TileShape {
  int halves, warps_m, warps_n;
  bool chunked;
};

// Every shape that is compiled, and the only place that names them. A CTA of one computes 8 * halves * warps_m rows by
// 32 * warps_n channels; the planner takes the cheapest. One more is one more entry here.
inline constexpr TileShape kBuiltTensorCore[] = {
    {20, 2, 4, false},                     // windows of 20 elements: (4, 5), the heart of FCN-4
    {16, 2, 4, false}, {16, 4, 2, false},  // up to 64 output channels
    {8, 8, 1, false},                      // up to 32
    {8, 2, 4, true},                       // deep layers, whose sums may be split
    {8, 1, 4, true},   {4, 1, 4, true},    // small batches
    {4, 2, 2, true},
};  // bfloat16, float16 and tf32
inline constexpr TileShape kBuiltTf32x3[] = {
    {4, 2, 4, true},  // with 8 halves, sums and totals would spill registers
    {4, 8, 1, true},
    {4, 1, 4, true},
};
inline constexpr TileShape kBuiltFloat32[] = {
    {8, 2, 4, true},
    {8, 4, 2, true},
    {8, 8, 1, true},
    {8, 1, 2, true},
};

template <typename Shape>
ConvKernel conv_kernel() {
  return {Shape::kHalves,    Shape::kWarpsM,    Shape::kWarpsN,
          Shape::kChunked,   Shape::kStageTaps, Shape::kMinimumCapability,
          &conv_block<Shape>};
}

// The kernels of a list, in its order: all with one tap a stage, and those of 16-bit types and tf32 with three once
// more. Where a tap takes longer, as in float32, a barrier is little of it.
template <typename Math, const auto& kBuilt, int kStageTaps, std::size_t... kIndex>
void append_kernels(std::vector<ConvKernel>& kernels, std::index_sequence<kIndex...>) {
  (kernels.push_back(conv_kernel<ConvShape<Math, kBuilt[kIndex].halves, kBuilt[kIndex].warps_m, kBuilt[kIndex].warps_n,
                                           kBuilt[kIndex].chunked, kStageTaps>>()),
   ...);
}
template <typename Math, const auto& kBuilt>
std::vector<ConvKernel> built_kernels() {
  constexpr auto kIndices = std::make_index_sequence<std::size(kBuilt)>();
  std::vector<ConvKernel> kernels;
  append_kernels<Math, kBuilt, 1>(kernels, kIndices);
  if constexpr (Math::kRowStages) append_kernels<Math, kBuilt, 3>(kernels, kIndices);
  return kernels;
}

// One function a .cu file; conv_kernels() chooses.
const std::vector<ConvKernel>& conv_kernels_float32();
const std::vector<ConvKernel>& conv_kernels_tf32();
const std::vector<ConvKernel>& conv_kernels_tf32x3();
const std::vector<ConvKernel>& conv_kernels_float16();
const std::vector<ConvKernel>& conv_kernels_bfloat16();

}  // namespace cuda
}  // namespace fcntag
