// The first block: one input channel, direct, on the ordinary float32 units in every precision.
//
// A ninth of a percent of a network's work and its largest map: what counts is that the map in full resolution is never
// written. Reads the normalised log-mel [images][height][width], writes what conv_block reads.
#pragma once

#include <vector>

#include "cuda/conv_plan.h"

namespace fcntag {
namespace cuda {

struct FirstParams {
  const float* x;  // [images][height][width], rows `row_stride` and images `image_stride` floats apart
  int64_t image_stride;
  const float* weight;    // [9][n_padded], a 1x1 kernel in the middle of zeros
  const float* epilogue;  // [4][n_padded]
  void* y;                // [images][out_h][out_w][out_stride]
  const Io* io;
  int height, width, row_stride;
  int out_h, out_w, out_channels, out_stride, n_padded;
  int pool_h, pool_w, stride_h, stride_w;
  int tile_h, tile_w, tiles_h, tiles_w;  // pool windows of a CTA
  int patch_h, patch_w;                  // input pixels of a CTA, with the border
  int channel_lanes;                     // lanes that share a window, 4 channels each: 8, 16 or 32
  int activation, storage;
};

struct FirstPlan {
  FirstParams params{};
  void (*kernel)(FirstParams) = nullptr;
  dim3 grid;
  std::size_t shared_bytes = 0;
};

constexpr int kFirstThreads = 256;

// `layer.in_channels` is 1. The plan does not depend on the device.
FirstPlan plan_first(const ConvLayer& layer, int batch);

// [9][n_padded]; a negative scale's sign goes into the weights.
std::vector<float> pack_first_weights(const ConvBlockSpec& spec);

}  // namespace cuda
}  // namespace fcntag
