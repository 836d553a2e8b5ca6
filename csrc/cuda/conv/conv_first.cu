#include "cuda/conv/conv_first.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <utility>

#include "check.h"
#include "cuda/conv/conv_pack.h"
#include "cuda/conv/epilogue.h"
#include "cuda/half.h"

namespace fcntag {
namespace cuda {

namespace {

// First pools of the published models. Each has a kernel of its own, which holds the input of a window in registers;
// any other window takes a general kernel that is slower. One more is one more entry here.
constexpr PoolWindow kBuilt[] = {{2, 4}, {3, 5}, {4, 1}, {2, 2}, {1, 4}};

constexpr int kChannels = kFirstLaneChannels;

FCNTAG_DEVICE void store_four(void* y, int64_t index, const float (&v)[kChannels], Storage storage) {
  store_pair(y, index, v[0], v[1], storage);
  store_pair(y, index + 2, v[2], v[3], storage);
}

// Largest raw sum of each channel over one window. With the window known, its patch is held in registers.
template <int kPoolH, int kPoolW>
struct Window {
  FCNTAG_DEVICE static void largest(const FirstParams& p, const float* patch, const float (&w)[9][kChannels],
                                    float (&best)[kChannels]) {
    float x[kPoolH + 2][kPoolW + 2];
    FCNTAG_UNROLL for (int r = 0; r < kPoolH + 2; ++r) {
      FCNTAG_UNROLL for (int c = 0; c < kPoolW + 2; ++c) x[r][c] = patch[r * p.patch_w + c];
    }
    FCNTAG_UNROLL for (int r = 0; r < kPoolH; ++r) {
      FCNTAG_UNROLL for (int c = 0; c < kPoolW; ++c) {
        FCNTAG_UNROLL for (int n = 0; n < kChannels; ++n) {
          float sum = 0.0f;
          FCNTAG_UNROLL for (int tap = 0; tap < 9; ++tap) sum = fmaf(x[r + tap / 3][c + tap % 3], w[tap][n], sum);
          best[n] = r == 0 && c == 0 ? sum : fmaxf(best[n], sum);
        }
      }
    }
  }
};

template <>
struct Window<0, 0> {  // any window
  FCNTAG_DEVICE static void largest(const FirstParams& p, const float* patch, const float (&w)[9][kChannels],
                                    float (&best)[kChannels]) {
    FCNTAG_NO_UNROLL for (int r = 0; r < p.pool_h; ++r) {
      FCNTAG_NO_UNROLL for (int c = 0; c < p.pool_w; ++c) {
        float sum[kChannels] = {0.0f, 0.0f, 0.0f, 0.0f};
        FCNTAG_UNROLL for (int tap = 0; tap < 9; ++tap) {
          const float x = patch[(r + tap / 3) * p.patch_w + c + tap % 3];
          FCNTAG_UNROLL for (int n = 0; n < kChannels; ++n) sum[n] = fmaf(x, w[tap][n], sum[n]);
        }
        FCNTAG_UNROLL for (int n = 0; n < kChannels; ++n) best[n] = r + c == 0 ? sum[n] : fmaxf(best[n], sum[n]);
      }
    }
  }
};

template <int kPoolH, int kPoolW>
FCNTAG_KERNEL(kFirstThreads, 2)
conv_first(const FCNTAG_GRID_CONSTANT FirstParams p) {
  const int thread = static_cast<int>(threadIdx.x), lane = thread % p.channel_lanes, first = thread / p.channel_lanes;
  const int windows_at_once = kFirstThreads / p.channel_lanes;
  const int image = static_cast<int>(blockIdx.z);
  const int tile_y = static_cast<int>(blockIdx.x) / p.tiles_w * p.tile_h;
  const int tile_x = static_cast<int>(blockIdx.x) % p.tiles_w * p.tile_w;
  const int n = (static_cast<int>(blockIdx.y) * p.channel_lanes + lane) * kChannels;
  const float* weight = static_cast<const float*>(p.weight);
  float w[9][kChannels];
  FCNTAG_UNROLL for (int tap = 0; tap < 9; ++tap) {
    FCNTAG_UNROLL for (int i = 0; i < kChannels; ++i) w[tap][i] =
        n + i < p.n_padded ? weight[tap * p.n_padded + n + i] : 0;
  }
  dev::release_successors();
  dev::wait_for_predecessors();
  if (image >= p.io->count) return;

  float* patch = reinterpret_cast<float*>(dev::shared_memory());
  const float* x = p.x + image * p.image_stride;
  const int y0 = tile_y * p.stride_h - 1, x0 = tile_x * p.stride_w - 1;
  for (int i = thread; i < p.patch_h * p.patch_w; i += kFirstThreads) {
    const int row = y0 + i / p.patch_w, column = x0 + i % p.patch_w;
    const bool inside = row >= 0 && row < p.height && column >= 0 && column < p.width;
    patch[i] = inside ? x[row * p.row_stride + column] : 0.0f;
  }
  dev::sync();
  if (n >= p.out_stride) return;
  for (int window = first; window < p.tile_h * p.tile_w; window += windows_at_once) {
    const int wy = window / p.tile_w, wx = window % p.tile_w;
    if (tile_y + wy >= p.out_h || tile_x + wx >= p.out_w) continue;
    float best[kChannels];
    Window<kPoolH, kPoolW>::largest(p, patch + wy * p.stride_h * p.patch_w + wx * p.stride_w, w, best);
    float v[kChannels];
    FCNTAG_UNROLL for (int i = 0; i < kChannels; ++i) {
      v[i] = n + i < p.out_channels ? finish(best[i], p.epilogue, p.n_padded, n + i, p.activation) : 0.0f;
    }
    const int64_t pixel = (static_cast<int64_t>(image) * p.out_h + tile_y + wy) * p.out_w + tile_x + wx;
    store_four(p.y, pixel * p.out_stride + n, v, p.storage);
  }
}

// The kernel that is compiled for a window, or null.
template <std::size_t... kIndex>
FirstKernel built_kernel(int pool_h, int pool_w, std::index_sequence<kIndex...>) {
  FirstKernel kernel = nullptr;
  const auto take = [&](PoolWindow window, FirstKernel its_kernel) {
    if (window.height == pool_h && window.width == pool_w) kernel = its_kernel;
  };
  (take(kBuilt[kIndex], &conv_first<kBuilt[kIndex].height, kBuilt[kIndex].width>), ...);
  return kernel;
}

int divide_up(int a, int b) { return (a + b - 1) / b; }

}  // namespace

std::vector<PoolWindow> built_first_windows() { return {std::begin(kBuilt), std::end(kBuilt)}; }

FirstPlan plan_first(const ConvLayer& layer, int batch) {
  FCNTAG_CHECK(layer.height >= layer.pool_h && layer.width >= layer.pool_w, "conv_block: map ", layer.height, "x",
               layer.width, " is smaller than the pool window (", layer.pool_h, ", ", layer.pool_w, ")");
  FirstPlan plan;
  FirstParams& p = plan.params;
  p.height = layer.height;
  p.width = layer.width;
  p.out_h = layer.out_h();
  p.out_w = layer.out_w();
  p.out_channels = layer.out_channels;
  p.out_stride = padded_channels(layer.out_channels, layer.storage);
  p.n_padded = layer.n_padded();
  p.pool_h = layer.pool_h;
  p.pool_w = layer.pool_w;
  p.stride_h = layer.stride_h;
  p.stride_w = layer.stride_w;
  p.activation = layer.activation;
  p.storage = layer.storage;
  const bool halves = element_bytes(layer.precision) == 2;
  p.channel_lanes = layer.out_channels > 64 && !halves ? 32 : layer.out_channels > 32 ? 16 : 8;
  // A patch of at most 32 KB; about 64 windows, wide rather than high, as rows of the input are contiguous.
  constexpr int kPatchFloats = 8192, kWindows = 64;
  p.tile_h = 1;
  p.tile_w = std::min(p.out_w, kWindows);
  while (p.tile_h < p.out_h && p.tile_h * 2 * p.tile_w <= kWindows) p.tile_h *= 2;
  const auto set_patch = [&p] {
    p.patch_h = (p.tile_h - 1) * p.stride_h + p.pool_h + 2;
    p.patch_w = (p.tile_w - 1) * p.stride_w + p.pool_w + 2;
    return p.patch_h * p.patch_w;
  };
  while (set_patch() > kPatchFloats && p.tile_h * p.tile_w > 1) {
    (p.tile_h > 1 ? p.tile_h : p.tile_w) = divide_up(p.tile_h > 1 ? p.tile_h : p.tile_w, 2);
  }
  plan.shared_bytes = static_cast<std::size_t>(set_patch()) * (halves ? sizeof(uint16_t) : sizeof(float));
  if (plan.shared_bytes > 48 * 1024) {
    throw DeviceError("conv_block: a first pool window of (" + std::to_string(layer.pool_h) + ", " +
                      std::to_string(layer.pool_w) + ") is larger than the 48 KB that its input may take");
  }
  p.tiles_h = divide_up(p.out_h, p.tile_h);
  p.tiles_w = divide_up(p.out_w, p.tile_w);
  plan.grid =
      dim3(static_cast<unsigned>(p.tiles_h * p.tiles_w),
           static_cast<unsigned>(divide_up(p.out_stride, p.channel_lanes * kChannels)), static_cast<unsigned>(batch));
  if (halves) {
    plan.kernel = first_kernel_float16(p.channel_lanes * kChannels);
    plan.window = WindowKernel::kAny;
    return plan;
  }
  plan.kernel = built_kernel(p.pool_h, p.pool_w, std::make_index_sequence<std::size(kBuilt)>());
  plan.window = plan.kernel != nullptr ? WindowKernel::kBuilt : WindowKernel::kGeneral;
  if (plan.kernel == nullptr) plan.kernel = &conv_first<0, 0>;
  return plan;
}

PackedFirst pack_first(const ConvBlockSpec& spec, Precision precision) {
  const int padded = (spec.out_channels + 31) / 32 * 32;
  const bool halves = element_bytes(precision) == 2;
  PackedFirst packed{std::vector<uint8_t>(static_cast<std::size_t>(padded) * (halves ? 32 : 36)), pack_epilogue(spec)};
  const int taps = spec.kernel * spec.kernel;
  for (int n = 0; n < spec.out_channels; ++n) {
    const float* row = spec.weight + static_cast<std::size_t>(n) * taps;
    float factor = spec.scale != nullptr && spec.scale[n] < 0 ? -1.0f : 1.0f;
    if (halves) {  // the largest weight to [0.5, 1): exact, and undone by the epilogue
      float largest = 0.0f;
      for (int i = 0; i < taps; ++i) largest = std::max(largest, std::fabs(row[i]));
      int exponent = 0;
      std::frexp(largest, &exponent);
      exponent = std::clamp(exponent, -100, 100);
      factor = std::ldexp(factor, -exponent);
      packed.epilogue[n] = std::ldexp(packed.epilogue[n], exponent);
    }
    for (int i = 0; i < taps; ++i) {
      const int tap = spec.kernel == 1 ? 4 : i;
      const std::size_t at = halves ? (static_cast<std::size_t>(n) * 16 + tap) * 2
                                    : (static_cast<std::size_t>(tap) * padded + n) * sizeof(float);
      store_as(packed.weight.data() + at, factor * row[i], halves ? Precision::kFloat16 : Precision::kFloat32);
    }
  }
  return packed;
}

}  // namespace cuda
}  // namespace fcntag
