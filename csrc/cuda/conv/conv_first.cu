#include "cuda/conv/conv_first.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>
#include <utility>

#include "check.h"
#include "cuda/conv/conv_first_tile.h"
#include "cuda/conv/conv_pack.h"
#include "cuda/half.h"

namespace fcntag {
namespace cuda {

namespace {

// First pools of the published models. Each has a kernel of its own, which holds the input of a window in registers;
// any other window takes a general kernel that is slower. One more is one more entry here.
constexpr PoolWindow kBuilt[] = {{2, 4}, {3, 5}, {4, 1}, {2, 2}, {1, 4}};

constexpr int kChannels = kFirstLaneChannels;

// Largest raw sum of each channel over one window. With the window known, its patch is held in registers.
template <int kPoolH, int kPoolW>
struct Window {
  FCNTAG_DEVICE static void largest(const FirstParams& p, const float* patch, const float (&w)[9][kChannels],
                                    float (&best)[kChannels]) {
    float x[kPoolH + 2][kPoolW + 2];
    FCNTAG_UNROLL for (int r = 0; r < kPoolH + 2; ++r) {
      FCNTAG_UNROLL for (int c = 0; c < kPoolW + 2; ++c) x[r][c] = patch[r * p.pitch + c];
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
          const float x = patch[(r + tap / 3) * p.pitch + c + tap % 3];
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
  const int thread = static_cast<int>(threadIdx.x), lane = thread & (p.channel_lanes - 1);
  const int first = thread >> p.lane_shift, windows_at_once = kFirstThreads >> p.lane_shift;
  const int n = (static_cast<int>(blockIdx.y) * p.channel_lanes + lane) * kChannels;
  const float* weight = static_cast<const float*>(p.weight);
  float w[9][kChannels];
  FCNTAG_UNROLL for (int tap = 0; tap < 9; ++tap) {
    float4 four = {0, 0, 0, 0};
    if (n < p.n_padded) four = *reinterpret_cast<const float4*>(weight + tap * p.n_padded + n);
    w[tap][0] = four.x;
    w[tap][1] = four.y;
    w[tap][2] = four.z;
    w[tap][3] = four.w;
  }
  uint8_t* const memory = dev::shared_memory();
  float* const slots = reinterpret_cast<float*>(memory + p.buffers * p.buffer_bytes);
  float* const epilogues = slots + kFinishWarps;
  const int channels = p.channel_lanes * kChannels;
  keep_epilogues(p, static_cast<int>(blockIdx.y) * channels, channels, epilogues);
  FirstPatch<double, kFirstHeld32> patch(p, slots);
  dev::release_successors();
  dev::wait_for_predecessors();
  const auto store = [&](const FirstTile& tile, uint8_t* buffer) {
    float* target = reinterpret_cast<float*>(buffer);
    patch.store(p, tile, [target](int at, float value) { target[at] = value; });
  };
  const auto compute = [&](const FirstTile& tile, const uint8_t* buffer, const auto& load) {
    load();
    const float* pixels = reinterpret_cast<const float*>(buffer);
    const int tile_y = tile.row * p.tile_h, tile_x = tile.column * p.tile_w;
    FCNTAG_NO_UNROLL for (int window = first; window < p.tile_h * p.tile_w; window += windows_at_once) {
      const int wy = window >> p.tile_shift, wx = window & (p.tile_w - 1);
      if (n >= p.out_stride || tile_y + wy >= p.out_h || tile_x + wx >= p.out_w) continue;
      float v[kChannels];
      Window<kPoolH, kPoolW>::largest(p, pixels + wy * p.stride_h * p.pitch + wx * p.stride_w, w, v);
      LaneEpilogue<kChannels>(epilogues + lane * kChannels, channels).apply(v, p.activation);
      // Channels that only fill up a pixel are zero: the next block multiplies them by zero, and must not find a NaN.
      FCNTAG_UNROLL for (int i = 0; i < kChannels; ++i) v[i] = n + i < p.out_channels ? v[i] : 0.0f;
      const int64_t pixel = (static_cast<int64_t>(tile.image) * p.out_h + tile_y + wy) * p.out_w + tile_x + wx;
      store_channels(p.y, pixel * p.out_stride + n, v, p.storage);
    }
  };
  run_tiles(p, memory, patch, store, compute);
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

constexpr std::size_t kSharedBytes = 48 * 1024;  // for two patches: a kernel has so much without asking
// Behind the patches: what clip_values() takes, and epilogues of up to 32 lanes' channels.
constexpr int kSlotBytes = (kFinishWarps + 4 * 32 * kChannels) * sizeof(float);
// Weights of choose_tile(), in cycles: a tile; a pixel of each thread on its way to shared memory; one that no register
// holds, so that its thread waits for it.
constexpr int kTileCost = 500, kPixelCost = 30, kWaitCost = 600;

void set_tile(FirstParams& p, bool halves, int tile_h, int tile_shift, std::size_t shared_bytes) {
  p.tile_h = tile_h;
  p.tile_shift = tile_shift;
  p.tile_w = 1 << tile_shift;
  p.tiles_h = divide_up(p.out_h, p.tile_h);
  p.tiles_w = divide_up(p.out_w, p.tile_w);
  p.patch_h = (p.tile_h - 1) * p.stride_h + p.pool_h + 2;
  p.patch_w = (p.tile_w - 1) * p.stride_w + p.pool_w + 2 + halves;
  // Halves: two copies, each with room for the column in front of an odd one, in whole words.
  p.pitch = halves ? (p.patch_w + 2) / 2 * 2 : p.patch_w;
  const std::size_t bytes = (static_cast<std::size_t>(p.patch_h) * p.pitch * 4 + (halves ? 4 : 0) + 15) / 16 * 16;
  p.buffers = 2 * bytes + kSlotBytes <= kSharedBytes ? 2 : bytes + kSlotBytes <= shared_bytes ? 1 : 0;
  p.buffer_bytes = static_cast<int>(std::min<std::size_t>(bytes, std::numeric_limits<int>::max()));
}

// The tile of up to kFirstWindows windows that takes the fewest instructions, or one window. buffers is 0 where not
// even that one's patch has room.
void choose_tile(FirstParams& p, bool halves, const DeviceInfo& device) {
  int64_t least = std::numeric_limits<int64_t>::max();
  int best_h = 1, best_shift = 0;
  for (int shift = 0; 1 << shift <= kFirstWindows; ++shift) {
    if (shift == 0 && p.out_w > 1) continue;  // a lane of the kernel in float16 ends two neighbours
    for (int tile_h = 1; tile_h << shift <= (shift == 0 ? 1 : kFirstWindows); tile_h *= 2) {
      set_tile(p, halves, tile_h, shift, device.shared_bytes);
      if (p.buffers != 2) continue;
      const int pixels = divide_up(p.patch_h * p.patch_w, kFirstThreads), held = halves ? kFirstHeld16 : kFirstHeld32;
      const int one = kTileCost + kPixelCost * pixels + kWaitCost * std::max(0, pixels - held);
      const int64_t cost = static_cast<int64_t>(p.tiles_h) * p.tiles_w * one;
      if (cost > least) continue;
      least = cost;
      best_h = tile_h;
      best_shift = shift;
    }
  }
  set_tile(p, halves, best_h, best_shift, device.shared_bytes);
}

}  // namespace

std::vector<PoolWindow> built_first_windows() { return {std::begin(kBuilt), std::end(kBuilt)}; }

FirstPlan plan_first(const ConvLayer& layer, int batch, const DeviceInfo& device) {
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
  p.lane_shift = layer.out_channels > 64 && !halves ? 5 : layer.out_channels > 32 ? 4 : 3;
  p.channel_lanes = 1 << p.lane_shift;
  choose_tile(p, halves, device);
  if (p.buffers == 0) {
    throw DeviceError("conv_block: a first pool window of (" + std::to_string(layer.pool_h) + ", " +
                      std::to_string(layer.pool_w) + ") is larger than the " +
                      std::to_string(device.shared_bytes / 1024) + " KB of shared memory that its input may take");
  }
  plan.shared_bytes = static_cast<std::size_t>(p.buffers) * p.buffer_bytes + kSlotBytes;
  const int columns = divide_up(p.out_stride, p.channel_lanes * kChannels);
  const int64_t tiles = static_cast<int64_t>(p.tiles_h) * p.tiles_w, all = tiles * batch;
  FCNTAG_CHECK(all < std::numeric_limits<int>::max() / 2, "conv_block: ", batch, " maps of ", layer.height, "x",
               layer.width, " are too many for one launch");
  // CTAs of equal runs of tiles, as many as are resident at a time, or fewer.
  const int resident = halves && p.channel_lanes == 8 && device.major < 10 ? 3 : 2;  // as the kernels are bound to
  const int slots = std::max(1, device.multiprocessors * resident / columns);
  const int each = divide_up(static_cast<int>(all), slots);
  plan.grid = dim3(static_cast<unsigned>(divide_up(static_cast<int>(all), each)), static_cast<unsigned>(columns));
  p.by_ctas = divisor(static_cast<int>(plan.grid.x));
  p.by_tiles = divisor(static_cast<int>(tiles));
  p.by_tiles_w = divisor(p.tiles_w);
  p.by_patch_w = divisor(p.patch_w);
  p.step_h = kFirstThreads / p.patch_w;
  p.step_w = kFirstThreads % p.patch_w;
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
      const int tap = spec.kernel == 1 ? 4 : i, tap_row = tap / 3, tap_column = tap % 3;
      // Halves: [pair of channels][row of taps][first two taps of either, third taps of either][2]
      const std::size_t fragment = (static_cast<std::size_t>(n / 2) * 4 + tap_row) * 4 + tap_column / 2 * 2 + n % 2;
      const std::size_t at =
          halves ? (fragment * 2 + tap_column % 2) * 2 : (static_cast<std::size_t>(tap) * padded + n) * sizeof(float);
      store_as(packed.weight.data() + at, factor * row[i], halves ? Precision::kFloat16 : Precision::kFloat32);
    }
  }
  return packed;
}

}  // namespace cuda
}  // namespace fcntag
