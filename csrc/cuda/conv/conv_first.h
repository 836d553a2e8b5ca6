// The first block, which has one input channel. It is little of a network's work but has its largest map, so that it
// pays never to write that map in full resolution. It reads the normalised log-mel [images][height][width] and writes
// the map that conv_block reads.
//
// Where the log-mel is not finished (frontend/clip_finish.h), it is finished on its way to shared memory.
//
// float32, tf32x3 and tf32 multiply on the float32 units. The 16-bit precisions multiply float16 on the tensor cores,
// with the nine taps as the inner dimension. Input and weights are rounded to 11 bits, for bfloat16 too: with its 8
// bits this block would have the largest error of all. Weights are scaled by a power of two per channel, so that
// float16's range does not matter.
#pragma once

#include <cstdint>
#include <vector>

#include "cuda/conv/conv_plan.h"
#include "cuda/divisor.h"
#include "cuda/frontend/clip_finish.h"

namespace fcntag {
namespace cuda {

constexpr int kFirstThreads = 256;
constexpr int kFirstWindows = 64;  // of a tile, at most
// Pixels of a tile that a thread holds in registers until the tile before is done: with more, registers would spill.
constexpr int kFirstHeld16 = 3, kFirstHeld32 = 3;
constexpr int kFirstLaneChannels = 4;  // float32: channels of a lane; a CTA has channel_lanes times as many

// A CTA has some of the channels, and a run of tiles of pool windows, one after the other: rows of tiles of an image,
// then the next image. A tile's patch of the input is on its way while the tile before is computed.
struct FirstParams {
  const float* x;  // [images][height][width], rows `row_stride` and images `image_stride` floats apart
  int64_t image_stride;
  const void* weight;     // as pack_first() has it
  const float* epilogue;  // [4][n_padded]
  void* y;                // [images][out_h][out_w][out_stride]
  const Io* io;
  ClipFinish finish;  // of x
  int height, width, row_stride;
  int out_h, out_w, out_channels, out_stride, n_padded;
  int pool_h, pool_w, stride_h, stride_w;
  int tile_h, tile_w, tiles_h, tiles_w;  // pool windows of a tile, powers of two
  int tile_shift;                        // tile_w is 1 << tile_shift
  int patch_h, patch_w;                  // input pixels of a tile, with the border
  int pitch;                             // elements from a row of the patch to the next one in shared memory
  int step_h, step_w;                    // from a pixel that a thread loads to its next one
  int buffers;                           // of patches, 1 or 2
  int buffer_bytes;
  int channel_lanes;  // float32: lanes that share a window, 4 channels each: 8, 16 or 32
  int lane_shift;     // channel_lanes is 1 << lane_shift
  Divisor by_ctas;    // gridDim.x
  Divisor by_tiles;   // of an image
  Divisor by_tiles_w, by_patch_w;
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

FirstKernel first_kernel_float16(int channels);  // of a CTA: 32 or 64

// `layer.in_channels` is 1. Only the number of CTAs and the largest window depend on the device. Throws DeviceError
// where one pool window's patch does not fit its shared memory.
FirstPlan plan_first(const ConvLayer& layer, int batch, const DeviceInfo& device);

// Weights as the kernel for `precision` takes them, and the epilogue that goes with them (pack_epilogue, with the scale
// of the weights undone). The sign of a negative affine scale goes into the weights; a 1x1 kernel is the middle of
// zeros. Weights are float [9][n_padded], or float16 in the order of conv_first_float16's fragments:
// [n_padded / 2][4][4][2], for a pair of channels n and n + 1 and a row t of taps (none where t is 3):
// w(n, t, 0), w(n, t, 1); w(n + 1, t, 0), w(n + 1, t, 1); w(n, t, 2), 0; w(n + 1, t, 2), 0.
struct PackedFirst {
  std::vector<uint8_t> weight;
  std::vector<float> epilogue;
};
PackedFirst pack_first(const ConvBlockSpec& spec, Precision precision);

}  // namespace cuda
}  // namespace fcntag
