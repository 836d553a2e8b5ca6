// Decides how conv_block cuts a layer into tiles: apart from the kernels, so that it can be tested and changed alone.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "cuda/conv/conv_params.h"
#include "cuda/runtime.h"
#include "model/network_spec.h"

namespace fcntag {
namespace cuda {

// One compiled shape of the kernel, which is to say the size of a CTA's work.
struct ConvKernel {
  int halves, warps_m, warps_n;
  int groups;  // of 32 channels that a warp has
  bool chunked;
  int stage_taps;          // taps between two barriers: 1, or a kernel row of 3
  int minimum_capability;  // times 10
  int resident;            // CTAs whose registers a multiprocessor has, as the compiler was told
  int tap_overhead;        // cycles of a CTA's tap beyond its products: TileShape
  void (*launch)(ConvParams);

  int threads() const { return 32 * warps_m * warps_n; }
  int tile_n() const { return 32 * warps_n * groups; }
  int ring_taps() const { return cuda::ring_taps(stage_taps, groups); }
  int sums() const { return halves * 8 * groups; }  // accumulators of a thread
};

// All shapes that are built for a precision.
const std::vector<ConvKernel>& conv_kernels(Precision precision);

// A layer without its weights.
struct ConvLayer : ConvBlockShape {
  int height, width;  // of the input
  Precision precision;
  Storage storage;  // of the output

  int out_h() const { return (height - pool_h) / stride_h + 1; }
  int out_w() const { return (width - pool_w) / stride_w + 1; }
  int channel_blocks() const;
  int n_padded() const { return (out_channels + 31) / 32 * 32; }
};

constexpr int storage_bytes(Storage s) { return s == Storage::kFloat16 || s == Storage::kBfloat16 ? 2 : 4; }
// The format of the maps between the blocks of a network.
Storage map_storage(Precision p);
// Channels that a pixel of a stored map has room for: whole 32-byte pairs of chunks.
int padded_channels(int channels, Storage storage);

struct ConvPlan {
  ConvParams params{};  // everything but pointers
  ConvKernel kernel{};
  unsigned ctas = 0;
  std::size_t shared_bytes = 0;
  std::size_t partial_bytes = 0;  // 0: sums are not split over CTAs
  // Counters that are 0, if sums are split over CTAs.
  std::size_t arrivals() const { return partial_bytes > 0 ? ctas : 0; }
  std::vector<uint8_t> tables;  // what `params` wants on the device: see bind_tables()
  double cycles = 0;            // the model's estimate, for tests and tuning
};

// The cheapest tiling by a model of the hardware, for `batch` images on `device`. Throws DeviceError if none fits its
// shared memory. The result's bits do not depend on the tiling: the order of sums is a function of the layer alone.
ConvPlan plan_conv(const ConvLayer& layer, int batch, const DeviceInfo& device);
// The same with a choice of these kernels only, which are some of conv_kernels(layer.precision).
ConvPlan plan_conv(const ConvLayer& layer, int batch, const DeviceInfo& device, const std::vector<ConvKernel>& kernels);

// The plan's parameters with pointers into `device`, where a copy of plan.tables lies.
ConvParams bind_tables(const ConvPlan& plan, const void* device);

// Puts a layer on `stream`. `params` are bind_tables(), with the other pointers set.
void run_conv(const ConvPlan& plan, const ConvParams& params, Stream stream);

}  // namespace cuda
}  // namespace fcntag
