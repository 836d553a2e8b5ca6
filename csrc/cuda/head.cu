#include "cuda/head.h"

#include "cuda/device/convert.h"
#include "cuda/device/device.h"
#include "cuda/launch.h"

namespace fcntag {
namespace cuda {

namespace {

constexpr int kWarps = 8;

// One warp per tag. Sums in double, as on the CPU: the layer is a thousandth of a network's work, and its rounding
// would be the largest of all. Their order is fixed, whatever the batch.
FCNTAG_KERNEL(32 * kWarps, 1)
head(const FCNTAG_GRID_CONSTANT HeadParams p) {
  const int lane = static_cast<int>(threadIdx.x) & 31, warp = static_cast<int>(threadIdx.x) >> 5;
  const int image = static_cast<int>(blockIdx.y), tag = static_cast<int>(blockIdx.x) * kWarps + warp;
  dev::release_successors();
  dev::wait_for_predecessors();
  const Io io = *p.io;
  if (image >= io.count || tag >= p.n_tags) return;
  const int features = p.maximum ? p.stride : p.positions * p.stride;
  const float* map = p.map + static_cast<int64_t>(image) * p.positions * p.stride;
  const float* weight = p.weight + static_cast<int64_t>(tag) * features;
  constexpr int kChains = 4;
  double sums[kChains] = {};
  for (int i = lane; i < features; i += 32 * kChains) {
    FCNTAG_UNROLL for (int j = 0; j < kChains; ++j) {
      const int at = i + 32 * j;
      if (at >= features) break;
      float v = map[at];
      if (p.maximum) {
        for (int position = 1; position < p.positions; ++position) v = fmaxf(v, map[position * p.stride + at]);
      }
      sums[j] += static_cast<double>(weight[at]) * v;
    }
  }
  double sum = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  FCNTAG_UNROLL for (int other = 16; other > 0; other /= 2) sum += dev::shuffle_xor(sum, other);
  if (lane != 0) return;
  const double logit = sum + p.bias[tag];
  const int64_t at = static_cast<int64_t>(image) * p.n_tags + tag;
  if (io.logits != nullptr) io.logits[at] = static_cast<float>(logit);
  if (io.scores != nullptr) io.scores[at] = static_cast<float>(1.0 / (1.0 + exp(-logit)));
}

FCNTAG_DEVICE float load(const void* map, int64_t index, Storage storage) {
  if (storage == Storage::kBfloat16) return dev::from_bfloat16(static_cast<const uint16_t*>(map)[index]);
  if (storage == Storage::kFloat16) return dev::from_float16(static_cast<const uint16_t*>(map)[index]);
  return static_cast<const float*>(map)[index];
}

FCNTAG_KERNEL(256, 1)
unpack(const FCNTAG_GRID_CONSTANT MapParams p) {
  dev::release_successors();
  dev::wait_for_predecessors();
  const int image = static_cast<int>(blockIdx.y), i = static_cast<int>(blockIdx.x * 256 + threadIdx.x);
  if (i >= p.channels * p.positions) return;
  const int channel = i % p.channels, position = i / p.channels;
  const float v = load(p.map, (static_cast<int64_t>(image) * p.positions + position) * p.stride + channel, p.storage);
  p.out[(static_cast<int64_t>(image) * p.channels + channel) * p.positions + position] = v;
}

FCNTAG_KERNEL(256, 1)
means(const FCNTAG_GRID_CONSTANT MapParams p) {
  dev::release_successors();
  dev::wait_for_predecessors();
  const int image = static_cast<int>(blockIdx.y), channel = static_cast<int>(blockIdx.x * 256 + threadIdx.x);
  if (channel >= p.channels) return;
  double sum = 0.0;
  for (int position = 0; position < p.positions; ++position) {
    sum += load(p.map, (static_cast<int64_t>(image) * p.positions + position) * p.stride + channel, p.storage);
  }
  p.out[static_cast<int64_t>(image) * p.channels + channel] = static_cast<float>(sum / p.positions);
}

dim3 grid(int columns, int per_block, int images) {
  return dim3(static_cast<unsigned>((columns + per_block - 1) / per_block), static_cast<unsigned>(images));
}

}  // namespace

void run_head(const HeadParams& params, int images, Stream stream) {
  launch(&head, {grid(params.n_tags, kWarps, images), 32 * kWarps, 0}, stream, params);
}

void run_unpack(const MapParams& params, int images, Stream stream) {
  launch(&unpack, {grid(params.channels * params.positions, 256, images), 256, 0}, stream, params);
}

void run_means(const MapParams& params, int images, Stream stream) {
  launch(&means, {grid(params.channels, 256, images), 256, 0}, stream, params);
}

std::vector<float> pack_head_weights(const float* weight, int n_tags, int channels, int stride, int positions,
                                     Flatten order) {
  const int places = order == Flatten::kMax ? 1 : positions;
  std::vector<float> packed(static_cast<std::size_t>(n_tags) * places * stride);
  for (int tag = 0; tag < n_tags; ++tag) {
    const float* row = weight + static_cast<std::size_t>(tag) * places * channels;
    for (int position = 0; position < places; ++position) {
      for (int c = 0; c < channels; ++c) {
        const float w = order == Flatten::kHwc ? row[position * channels + c] : row[c * places + position];
        packed[(static_cast<std::size_t>(tag) * places + position) * stride + c] = w;
      }
    }
  }
  return packed;
}

}  // namespace cuda
}  // namespace fcntag
