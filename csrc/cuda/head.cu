#include "cuda/head.h"

#include "cuda/device/convert.h"
#include "cuda/device/device.h"
#include "cuda/launch.h"

namespace fcntag {
namespace cuda {

namespace {

constexpr int kWarps = 8;
constexpr int kThreads = 32 * kWarps;
constexpr int kHeld = 8;  // weights of a tag that a thread keeps in registers
// In a batch of more than kFewImages, a block takes so many of them one after the other, on the weights that it holds.
constexpr int kHeadImages = 4, kFewImages = 16;

// Warps that share a tag: as many as there are weights for. A function of the layer alone, so that sums have the same
// order in every batch.
int warps_of_tag(int features) {
  int warps = 1;
  while (warps < kWarps && features > 32 * kHeld * warps) warps *= 2;
  return warps;
}

// Features [first + kStep * j] of an image; 0 beyond the last.
template <Pooling kPooling, int kStep>
FCNTAG_DEVICE void load_features(const HeadParams& p, int image, int first, int features, float (&v)[kHeld]) {
  const float* map = p.map + static_cast<int64_t>(image) * p.positions * p.stride + first;
  FCNTAG_UNROLL for (int j = 0; j < kHeld; ++j) v[j] = first + j * kStep < features ? map[j * kStep] : 0.0f;
  if constexpr (kPooling == Pooling::kMaximum) {
    FCNTAG_NO_UNROLL for (int position = 1; position < p.positions; ++position) {
      map += p.stride;
      FCNTAG_UNROLL for (int j = 0; j < kHeld; ++j) {
        if (first + j * kStep < features) v[j] = fmaxf(v[j], map[j * kStep]);
      }
    }
  }
  if constexpr (kPooling == Pooling::kMean) {
    double sums[kHeld];
    FCNTAG_UNROLL for (int j = 0; j < kHeld; ++j) sums[j] = v[j];
    FCNTAG_NO_UNROLL for (int position = 1; position < p.positions; ++position) {
      map += p.stride;
      FCNTAG_UNROLL for (int j = 0; j < kHeld; ++j) {
        if (first + j * kStep < features) sums[j] += map[j * kStep];
      }
    }
    FCNTAG_UNROLL for (int j = 0; j < kHeld; ++j) v[j] = static_cast<float>(sums[j] / p.positions);
  }
}

// Sums in double, as on the CPU: the layer is a thousandth of a network's work, and its rounding would be the largest
// of all. Their order is fixed, whatever the batch.
//
// With one clip this is latency and little else. So a tag's weights are spread over kTagWarps warps, which have them in
// registers before their wait. What is left then is one load, a few products and the sum over the threads.
template <Pooling kPooling, int kTagWarps>
FCNTAG_KERNEL(kThreads, 1)
head(const FCNTAG_GRID_CONSTANT HeadParams p) {
  constexpr int kStep = 32 * kTagWarps;
  const int thread = static_cast<int>(threadIdx.x), lane = thread & 31, warp = thread >> 5;
  const int own = thread % kStep, tag = static_cast<int>(blockIdx.x) * (kWarps / kTagWarps) + thread / kStep;
  const int features = kPooling == Pooling::kNone ? p.positions * p.stride : p.stride;
  const bool exists = tag < p.n_tags;
  const float* weight = p.weight + static_cast<int64_t>(exists ? tag : 0) * features + own;
  double* slots = reinterpret_cast<double*>(dev::shared_memory());  // [kWarps]
  float w[kHeld];
  FCNTAG_UNROLL for (int j = 0; j < kHeld; ++j) w[j] = own + j * kStep < features ? weight[j * kStep] : 0.0f;
  const double bias = exists ? p.bias[tag] : 0.0;
  dev::release_successors();
  dev::wait_for_predecessors();
  const Io io = *p.io;
  const int first_image = static_cast<int>(blockIdx.y);
  FCNTAG_NO_UNROLL for (int image = first_image; image < io.count; image += static_cast<int>(gridDim.y)) {
    constexpr int kChains = 4;
    double sums[kChains] = {};
    float v[kHeld];
    load_features<kPooling, kStep>(p, image, own, features, v);
    FCNTAG_UNROLL for (int j = 0; j < kHeld; ++j) sums[j % kChains] += static_cast<double>(w[j]) * v[j];
    if constexpr (kTagWarps == kWarps) {  // else a tag has no more weights
      FCNTAG_NO_UNROLL for (int first = own + kHeld * kStep; first < features; first += kHeld * kStep) {
        load_features<kPooling, kStep>(p, image, first, features, v);
        FCNTAG_UNROLL for (int j = 0; j < kHeld; ++j) {
          const float next = first + j * kStep < features ? weight[first - own + j * kStep] : 0.0f;
          sums[j % kChains] += static_cast<double>(next) * v[j];
        }
      }
    }
    double sum = (sums[0] + sums[1]) + (sums[2] + sums[3]);
    FCNTAG_UNROLL for (int other = 16; other > 0; other /= 2) sum += dev::shuffle_xor(sum, other);
    if constexpr (kTagWarps > 1) {
      if (image != first_image) dev::sync();  // the slots of the last image have been read
      if (lane == 0) slots[warp] = sum;
      dev::sync();
    }
    if (own == 0 && exists) {
      FCNTAG_UNROLL for (int other = 1; other < kTagWarps; ++other) sum += slots[warp + other];
      const double logit = sum + bias;
      const int64_t at = static_cast<int64_t>(image) * p.n_tags + tag;
      if (io.logits != nullptr) io.logits[at] = static_cast<float>(logit);
      if (io.scores != nullptr) io.scores[at] = static_cast<float>(1.0 / (1.0 + exp(-logit)));
    }
  }
}

template <Pooling kPooling>
void (*head_for(int tag_warps))(HeadParams) {
  switch (tag_warps) {
    case 1:
      return &head<kPooling, 1>;
    case 2:
      return &head<kPooling, 2>;
    case 4:
      return &head<kPooling, 4>;
    default:
      return &head<kPooling, 8>;
  }
}

// A thread has one channel. The mean is summed in double, as on the CPU.
FCNTAG_KERNEL(256, 1)
pool(const FCNTAG_GRID_CONSTANT PoolParams p) {
  dev::release_successors();
  dev::wait_for_predecessors();
  const int image = static_cast<int>(blockIdx.y), channel = static_cast<int>(blockIdx.x * 256 + threadIdx.x);
  if (image >= p.io->count || channel >= p.stride) return;
  const float* map = p.map + static_cast<int64_t>(image) * p.positions * p.stride + channel;
  float most = map[0];
  double sum = 0.0;
  for (int position = 0; position < p.positions; ++position) {
    const float v = map[static_cast<int64_t>(position) * p.stride];
    most = fmaxf(most, v);
    sum += v;
  }
  p.out[static_cast<int64_t>(image) * p.stride + channel] =
      p.pooling == Pooling::kMaximum ? most : static_cast<float>(sum / p.positions);
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
  const bool all = params.pooling == Pooling::kNone;
  const int tag_warps = warps_of_tag(all ? params.positions * params.stride : params.stride);
  dim3 blocks = grid(params.n_tags, kWarps / tag_warps, images);
  if (images > kFewImages) blocks.y = (blocks.y + kHeadImages - 1) / kHeadImages;
  const auto kernel = all                                   ? head_for<Pooling::kNone>(tag_warps)
                      : params.pooling == Pooling::kMaximum ? head_for<Pooling::kMaximum>(tag_warps)
                                                            : head_for<Pooling::kMean>(tag_warps);
  launch(kernel, {blocks, kThreads, kWarps * sizeof(double)}, stream, params);
}

void run_pool(const PoolParams& params, int images, Stream stream) {
  launch(&pool, {grid(params.stride, 256, images), 256, 0}, stream, params);
}

void run_unpack(const MapParams& params, int images, Stream stream) {
  launch(&unpack, {grid(params.channels * params.positions, 256, images), 256, 0}, stream, params);
}

void run_means(const MapParams& params, int images, Stream stream) {
  launch(&means, {grid(params.channels, 256, images), 256, 0}, stream, params);
}

std::vector<float> pack_head_weights(const float* weight, int outputs, int channels, int stride, int positions,
                                     Flatten order) {
  const int places = is_global(order) ? 1 : positions;
  std::vector<float> packed(static_cast<std::size_t>(outputs) * places * stride);
  for (int out = 0; out < outputs; ++out) {
    const float* row = weight + static_cast<std::size_t>(out) * places * channels;
    for (int position = 0; position < places; ++position) {
      for (int c = 0; c < channels; ++c) {
        const float w = order == Flatten::kHwc ? row[position * channels + c] : row[c * places + position];
        packed[(static_cast<std::size_t>(out) * places + position) * stride + c] = w;
      }
    }
  }
  return packed;
}

}  // namespace cuda
}  // namespace fcntag
