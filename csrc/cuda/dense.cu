#include "cuda/dense.h"

#include "cuda/device/device.h"
#include "cuda/launch.h"

namespace fcntag {
namespace cuda {

namespace {

constexpr int kWarps = 8;
constexpr int kThreads = 32 * kWarps;
constexpr int kChunk = 32;    // inputs whose products make one sum in float; a warp's at a time
constexpr int kAtOnce = 4;    // images that a thread works on side by side
constexpr int kPadding = 64;  // outputs are packed in multiples of it, which every block's number divides

template <int kOwn>
struct DenseBlock {
  static constexpr int kOutputs = 32 * kOwn, kImages = kWarps * kOwn;
  static constexpr std::size_t kSharedBytes = sizeof(float) * kImages * (kThreads + kWarps * kOutputs);
};

int padded(int n, int multiple) { return (n + multiple - 1) / multiple * multiple; }

FCNTAG_DEVICE float activated(float x, Activation activation) {
  if (activation == Activation::kRelu) return x > 0.0f ? x : 0.0f;
  if (activation == Activation::kElu) return x > 0.0f ? x : expm1f(x);
  return x;
}

// A block has 32 kOwn outputs of 8 kOwn images. A warp takes one chunk of the inputs: its threads hold the weights of
// kOwn outputs in registers, the first ones before the wait for the kernel before this one. Then threads change roles:
// each adds the chunks' sums, in order, of kOwn outputs and kOwn images.
template <int kOwn>
FCNTAG_KERNEL(kThreads, 1)
dense(const FCNTAG_GRID_CONSTANT DenseParams p) {
  constexpr int kOutputs = DenseBlock<kOwn>::kOutputs, kImages = DenseBlock<kOwn>::kImages;
  const int thread = static_cast<int>(threadIdx.x), lane = thread & 31, warp = thread >> 5;
  const int first_output = static_cast<int>(blockIdx.x) * kOutputs,
            first_image = static_cast<int>(blockIdx.y) * kImages;
  const int chunks = (p.inputs + kChunk - 1) / kChunk, pitch = (p.outputs + kPadding - 1) / kPadding * kPadding;
  float* values = reinterpret_cast<float*>(dev::shared_memory());  // [kImages][kThreads]: inputs of kWarps chunks
  float* sums = values + kImages * kThreads;                       // [kWarps][kImages][kOutputs]

  float w[kOwn][kChunk];
  const auto load_weights = [&](int chunk) {
    if (chunk >= chunks) return;
    const float* weight = p.weight + static_cast<int64_t>(chunk) * kChunk * pitch + first_output + lane;
    FCNTAG_UNROLL for (int k = 0; k < kChunk; ++k) {
      FCNTAG_UNROLL for (int a = 0; a < kOwn; ++a) w[a][k] = weight[a * 32];
      weight += pitch;
    }
  };
  load_weights(warp);
  dev::release_successors();
  dev::wait_for_predecessors();
  const int images = p.io->count - first_image;
  if (images <= 0) return;

  float totals[kOwn][kOwn] = {};
  FCNTAG_NO_UNROLL for (int first = 0; first < chunks; first += kWarps) {
    const int input = first * kChunk + thread;
    const float* x = p.x + static_cast<int64_t>(first_image) * p.inputs + input;
    FCNTAG_UNROLL for (int i = 0; i < kImages; ++i) {
      values[i * kThreads + thread] = i < images && input < p.inputs ? x[static_cast<int64_t>(i) * p.inputs] : 0.0f;
    }
    dev::sync();
    if (first + warp < chunks) {
      const float* own = values + warp * kChunk;
      float* target = sums + warp * kImages * kOutputs + lane;
      FCNTAG_NO_UNROLL for (int i = 0; i < kImages && i < images; i += kAtOnce) {
        float sum[kAtOnce][kOwn] = {};
        FCNTAG_UNROLL for (int k = 0; k < kChunk; k += 4) {
          FCNTAG_UNROLL for (int j = 0; j < kAtOnce; ++j) {
            const float4 v = *reinterpret_cast<const float4*>(own + (i + j) * kThreads + k);
            FCNTAG_UNROLL for (int a = 0; a < kOwn; ++a) {
              sum[j][a] = fmaf(w[a][k], v.x, sum[j][a]);
              sum[j][a] = fmaf(w[a][k + 1], v.y, sum[j][a]);
              sum[j][a] = fmaf(w[a][k + 2], v.z, sum[j][a]);
              sum[j][a] = fmaf(w[a][k + 3], v.w, sum[j][a]);
            }
          }
        }
        FCNTAG_UNROLL for (int j = 0; j < kAtOnce; ++j) {
          FCNTAG_UNROLL for (int a = 0; a < kOwn; ++a) target[(i + j) * kOutputs + a * 32] = sum[j][a];
        }
      }
      load_weights(first + kWarps + warp);
    }
    dev::sync();
    FCNTAG_UNROLL for (int b = 0; b < kOwn; ++b) {
      const float* source = sums + (warp + b * kWarps) * kOutputs + lane;
      if (warp + b * kWarps >= images) continue;
      for (int c = 0; c < kWarps && first + c < chunks; ++c) {
        FCNTAG_UNROLL for (int a = 0; a < kOwn; ++a) totals[b][a] += source[c * kImages * kOutputs + a * 32];
      }
    }
  }
  FCNTAG_UNROLL for (int b = 0; b < kOwn; ++b) {
    FCNTAG_UNROLL for (int a = 0; a < kOwn; ++a) {
      const int i = warp + b * kWarps, o = first_output + lane + a * 32;
      if (i >= images || o >= p.outputs) continue;
      p.y[static_cast<int64_t>(first_image + i) * p.outputs + o] = activated(totals[b][a] + p.bias[o], p.activation);
    }
  }
}

template <int kOwn>
void run(const DenseParams& params, int images, Stream stream) {
  using Block = DenseBlock<kOwn>;
  const dim3 blocks(static_cast<unsigned>(padded(params.outputs, Block::kOutputs) / Block::kOutputs),
                    static_cast<unsigned>(padded(images, Block::kImages) / Block::kImages));
  launch(&dense<kOwn>, {blocks, kThreads, Block::kSharedBytes}, stream, params);
}

}  // namespace

void run_dense(const DenseParams& params, int images, Stream stream) {
  if (images > DenseBlock<1>::kImages) {
    run<2>(params, images, stream);
  } else {
    run<1>(params, images, stream);
  }
}

std::size_t packed_dense_floats(int inputs, int outputs) {
  return static_cast<std::size_t>(padded(inputs, kChunk)) * padded(outputs, kPadding);
}

std::vector<float> pack_dense_weights(const std::vector<float>& weight, int inputs, int outputs) {
  std::vector<float> packed(packed_dense_floats(inputs, outputs));
  const std::size_t pitch = static_cast<std::size_t>(padded(outputs, kPadding));
  for (int out = 0; out < outputs; ++out) {
    for (int i = 0; i < inputs; ++i) packed[i * pitch + out] = weight[static_cast<std::size_t>(out) * inputs + i];
  }
  return packed;
}

}  // namespace cuda
}  // namespace fcntag
