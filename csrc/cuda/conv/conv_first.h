// The first block, which has one input channel. It is little of a network's work but has its largest map, so that it
// pays never to write that map in full resolution. It reads the normalised log-mel [images][height][width] and writes
// the map that conv_block reads.
//
// float32, tf32x3 and tf32 multiply on the float32 units. The 16-bit precisions multiply float16 on the tensor cores,
// with the nine taps as the inner dimension. Input and weights are rounded to 11 bits, for bfloat16 too: with its 8
// bits this block would have the largest error of all. Weights are scaled by a power of two per channel, so that
// float16's range does not matter.
#pragma once

#include <cstdint>
#include <vector>

#include "cuda/conv/conv_plan.h"

namespace fcntag {
namespace cuda {

struct FirstParams {
  const float* x;  // [images][height][width], rows `row_stride` and images `image_stride` floats apart
  int64_t image_stride;
  const void* weight;     // float [9][n_padded], or float16 [n_padded][16]; a 1x1 kernel in the middle of zeros
  const float* epilogue;  // [4][n_padded]
  void* y;                // [images][out_h][out_w][out_stride]
  const Io* io;
  int height, width, row_stride;
  int out_h, out_w, out_channels, out_stride, n_padded;
  int pool_h, pool_w, stride_h, stride_w;
  int tile_h, tile_w, tiles_h, tiles_w;  // pool windows of a CTA
  int patch_h, patch_w;                  // input pixels of a CTA, with the border
  int channel_lanes;                     // float32: lanes that share a window, 4 channels each: 8, 16 or 32
  Activation activation;
  Storage storage;          // of y
  const void* next_weight;  // as in ConvParams
  int64_t next_bytes;
};

using FirstKernel = void (*)(FirstParams);

struct PoolWindow {
  int height, width;
};
// Windows that have a kernel of their own in float32, tf32x3 and tf32: the list at the top of conv_first.cu.
std::vector<PoolWindow> built_first_windows();

// The kernel that a pool window gets. kBuilt: one compiled for this very window. kGeneral: none is, and a slower kernel
// takes it. kAny: the 16-bit kernel, which has no need of one for each window.
enum class WindowKernel { kBuilt, kGeneral, kAny };

struct FirstPlan {
  WindowKernel window = WindowKernel::kGeneral;
  FirstParams params{};
  FirstKernel kernel = nullptr;
  dim3 grid;
  std::size_t shared_bytes = 0;
};

constexpr int kFirstThreads = 256;
constexpr int kFirstLaneChannels = 4;  // channels of a lane: a CTA has channel_lanes times as many

FirstKernel first_kernel_float16(int channels);  // of a CTA: 32 or 64

// `layer.in_channels` is 1. The plan does not depend on the device.
FirstPlan plan_first(const ConvLayer& layer, int batch);

// Weights as the kernel for `precision` takes them, and the epilogue that goes with them (pack_epilogue, with the scale
// of the weights undone). The sign of a negative affine scale goes into the weights.
struct PackedFirst {
  std::vector<uint8_t> weight;
  std::vector<float> epilogue;
};
PackedFirst pack_first(const ConvBlockSpec& spec, Precision precision);

}  // namespace cuda
}  // namespace fcntag
