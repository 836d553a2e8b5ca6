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

// Parameters of a ConvShape, and what a tap takes beyond its products, in cycles of a CTA that is alone on a
// multiprocessor: with a barrier before every tap, and before every third. The planner weighs shapes by them. They come
// from the machine code of bfloat16 (`benchmarks/machine_code/report.py constants`).
struct TileShape {
  int halves, warps_m, warps_n, groups;
  bool chunked;
  int tap_overhead, row_tap_overhead;
};

// Every shape that is compiled, and the only place that names them. A CTA of one computes 8 * halves * warps_m rows by
// 32 * groups * warps_n channels; the planner takes the cheapest. One more is one more entry here.
inline constexpr TileShape kBuiltTensorCore[] = {
    {20, 2, 4, 1, false, 830, 480},                               // windows of 20 elements: (4, 5), the heart of FCN-4
    {10, 2, 2, 2, false, 680, 0},                                 // the same
    {16, 2, 4, 1, false, 985, 540}, {8, 2, 2, 2, false, 800, 0},  //
    {16, 4, 2, 1, false, 848, 687}, {8, 4, 1, 2, false, 680, 0},  // up to 64 output channels
    {8, 8, 1, 1, false, 610, 350},                                // up to 32
    {8, 2, 4, 1, true, 990, 630},                                 // deep layers, whose sums may be split
    {8, 1, 4, 1, true, 1000, 680},                                // small batches
    {4, 1, 4, 1, true, 836, 772},   {4, 2, 2, 1, true, 740, 560},
};  // bfloat16, float16 and tf32
inline constexpr TileShape kBuiltTf32x3[] = {
    {4, 2, 4, 1, true, 900, 0},  // with 8 halves, sums and totals would spill registers
    {4, 8, 1, 1, true, 900, 0},
    {4, 1, 4, 1, true, 900, 0},
};
inline constexpr TileShape kBuiltFloat32[] = {
    {8, 2, 4, 1, true, 600, 0},
    {8, 4, 2, 1, true, 600, 0},
    {8, 8, 1, 1, true, 600, 0},
    {8, 1, 2, 1, true, 600, 0},
};

template <typename Shape>
ConvKernel conv_kernel(int tap_overhead) {
  return {Shape::kHalves,
          Shape::kWarpsM,
          Shape::kWarpsN,
          Shape::kGroups,
          Shape::kChunked,
          Shape::kStageTaps,
          Shape::kMinimumCapability,
          Shape::kResident,
          tap_overhead,
          &conv_block<Shape>};
}

// The kernels of a list, in its order: all with one tap a stage; and those of 16-bit types and tf32 with three once
// more, but for wide shapes, whose CTAs hide each other's barriers. Where a tap takes longer, as in float32, a barrier
// is little of it.
template <typename Math, const auto& kBuilt, std::size_t kIndex, int kStageTaps>
void append_kernel(std::vector<ConvKernel>& kernels) {
  constexpr TileShape s = kBuilt[kIndex];
  if constexpr (kStageTaps == 1 || (Math::kRowStages && s.groups == 1)) {
    using Shape = ConvShape<Math, s.halves, s.warps_m, s.warps_n, s.groups, s.chunked, kStageTaps>;
    kernels.push_back(conv_kernel<Shape>(kStageTaps == 1 ? s.tap_overhead : s.row_tap_overhead));
  }
}
template <typename Math, const auto& kBuilt, std::size_t... kIndex>
std::vector<ConvKernel> built_kernels(std::index_sequence<kIndex...>) {
  std::vector<ConvKernel> kernels;
  (append_kernel<Math, kBuilt, kIndex, 1>(kernels), ...);
  (append_kernel<Math, kBuilt, kIndex, 3>(kernels), ...);
  return kernels;
}
template <typename Math, const auto& kBuilt>
std::vector<ConvKernel> built_kernels() {
  return built_kernels<Math, kBuilt>(std::make_index_sequence<std::size(kBuilt)>());
}

// One function a .cu file; conv_kernels() chooses.
const std::vector<ConvKernel>& conv_kernels_float32();
const std::vector<ConvKernel>& conv_kernels_tf32();
const std::vector<ConvKernel>& conv_kernels_tf32x3();
const std::vector<ConvKernel>& conv_kernels_float16();
const std::vector<ConvKernel>& conv_kernels_bfloat16();

}  // namespace cuda
}  // namespace fcntag
