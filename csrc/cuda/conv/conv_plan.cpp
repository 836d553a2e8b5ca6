#include "cuda/conv/conv_plan.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <set>

#include "check.h"
#include "cuda/conv/conv_tables.h"
#include "cuda/launch.h"

namespace fcntag {
namespace cuda {

namespace {

// ---- the model of the hardware: cycles of one multiprocessor. Figures of an H100; only their ratios matter ----
//
// What a CTA takes beside its products was fitted to replays of its machine code (docs/gpu.md): within a fifth of them.

constexpr double kL2BytesPerCycle = 24;  // the share of one of 132 multiprocessors in the level-2 cache's bandwidth
constexpr double kSharedBytesPerCycle = 128;
constexpr double kMmaCycles = 1.6;  // of an m16n8k16 (tf32: m16n8k8); the peak is 1, and mma.sync reaches 0.62 of it
constexpr double kSimtFmaPerCycle = 100;
constexpr double kStartCycles = 2500;    // of a CTA, for its place, the offsets of its halo and what comes behind them
constexpr double kPassCycles = 1400;     // of a pass, for its offsets and its maxima
constexpr double kOutputCycles = 620;    // of a pair of channels that a thread finishes and writes
constexpr double kArrivalCycles = 2000;  // of the last CTA of a tile whose sums are split, before it adds them
constexpr double kCopyLatency = 800;     // of a halo that nothing hides
constexpr int kThreads = 2048, kReservedShared = 1024;
constexpr int kLargestStretch = INT16_MAX - 16;  // of the map under a tile: the tables hold 16 bits
// Fewer warps leave a multiprocessor's schedulers idle while one waits for its operands.
constexpr int kEnoughWarps = 8;

// A layer whose one image has kEnoughTiles tiles of 64 rows x 128 channels keeps its sums whole. One with fewer may
// split them, into as many chunks as make kWantedTiles of its tiles.
constexpr int kEnoughTiles = 128, kWantedTiles = 256;

int divide_up(int a, int b) { return (a + b - 1) / b; }

// How many channel blocks are summed before the sum restarts: a function of the layer alone, or the bits of a score
// would depend on the batch. float32 restarts every 64 channels, as on the CPU: it halves the rounding error.
int chunk_blocks(const ConvLayer& layer) {
  const int blocks = layer.channel_blocks();
  if (layer.precision == Precision::kFloat32 || layer.precision == Precision::kTf32x3) return std::min(blocks, 2);
  const int64_t rows = static_cast<int64_t>(layer.out_h()) * layer.out_w() * layer.pool_h * layer.pool_w;
  const int64_t tiles = (rows + 63) / 64 * divide_up(layer.out_channels, 128);
  if (tiles >= kEnoughTiles || blocks == 1) return blocks;
  const int chunks = static_cast<int>(std::min<int64_t>(blocks, (kWantedTiles + tiles - 1) / tiles));
  return divide_up(blocks, chunks);
}

// Sizes of sub-windows worth trying: n cut into 1, 2, 3 ... equal parts.
std::set<int> parts(int n) {
  std::set<int> sizes;
  for (int k = 1; k <= n; ++k) sizes.insert(divide_up(n, k));
  return sizes;
}

// Pooled columns (rows) that a tile may take of n, at most `limit`.
std::set<int> extents(int n, int limit) {
  std::set<int> sizes;
  for (int k = 1; k <= limit && k <= n; k *= 2) sizes.insert(k);
  for (int k = 1; k <= 8; ++k) {
    if (divide_up(n, k) <= limit) sizes.insert(divide_up(n, k));
  }
  return sizes;
}

int round_up(int n, int unit) { return divide_up(n, unit) * unit; }

struct Shared {
  std::size_t bytes;
  int halo_pixels;
};

// As compute_conv_block() lays it out.
Shared shared_memory(const ConvParams& p, const ConvKernel& kernel) {
  const int pixels = round_up(p.tile_n * p.halo_h * p.halo_w, kernel.threads() / 8);
  const std::size_t halo = kBarrierBytes + round_up(pixels * 4, kBlockBytes);
  const std::size_t weights = round_up(static_cast<int>(halo) + pixels * kPixelBytes * p.halo_buffers, kBlockBytes);
  const std::size_t staged = weights + static_cast<std::size_t>(kernel.ring_taps()) * kernel.tile_n() * kBlockBytes;
  const int windows = kernel.warps_m * p.groups * p.windows_per_group;
  const std::size_t maxima = static_cast<std::size_t>(windows) * (kernel.tile_n() + kStagePad) * sizeof(float);
  const bool one_pass = p.passes_h * p.passes_w == 1;
  return {one_pass ? std::max(staged, halo + maxima) : staged + maxima, pixels};
}

void set_halo(ConvParams& p, int pad) {
  p.pitch_h = std::min(p.stride_h, p.sub_h + 2 * p.radius);
  p.pitch_w = std::min(p.stride_w, p.sub_w + 2 * p.radius);
  p.halo_h = (p.tile_h - 1) * p.pitch_h + p.sub_h + 2 * p.radius;
  p.halo_w = (p.tile_w - 1) * p.pitch_w + p.sub_w + 2 * p.radius + pad;
}

// CTAs that a multiprocessor holds at once.
int resident(const ConvKernel& kernel, std::size_t shared_bytes, const DeviceInfo& device) {
  const int by_shared = static_cast<int>((device.shared_bytes + kReservedShared) / (shared_bytes + kReservedShared));
  return std::max(1, std::min({by_shared, kernel.resident, kThreads / kernel.threads()}));
}

// `turns`: of a matrix load, for bank conflicts.
double estimate(const ConvParams& p, const ConvKernel& kernel, const ConvLayer& layer, int batch, double turns,
                const DeviceInfo& device) {
  const double products = layer.precision == Precision::kTf32x3 ? 3 : 1;
  const double chunks = p.channel_blocks == 1 ? p.last_chunks : 8;  // of 16 bytes, per tap
  const int warps = kernel.warps_m * kernel.warps_n, tiles = kernel.halves / 2, groups = kernel.groups;
  const double halo_bytes = 1.0 * p.tile_n * p.halo_h * p.halo_w * kBlockBytes;
  const double weight_bytes = kernel.tile_n() * kBlockBytes;
  double arithmetic, loads;
  if (layer.precision == Precision::kFloat32) {
    arithmetic = warps * kernel.halves * 8.0 * 32 * chunks * 4 / kSimtFmaPerCycle;
    loads = 0;
  } else {
    arithmetic = warps * tiles * groups * 4.0 * (chunks / 2) * kMmaCycles * products;
    loads = warps * (tiles * turns + 2 * groups) * (chunks / 2) * 512;  // bytes that matrix loads move
  }
  // What keeps the multiprocessor busy; what a CTA adds to it when it is alone, others can hide.
  const double copied = weight_bytes + halo_bytes / p.taps;
  const double work = std::max(arithmetic, (loads + copied) / kSharedBytesPerCycle);
  const int passes = p.passes_h * p.passes_w, blocks = p.split == Split::kPartial ? p.chunk_blocks : p.channel_blocks;
  const int pairs = divide_up(kernel.warps_m * p.groups * p.windows_per_group * kernel.tile_n() / 2, kernel.threads());
  const double halo = halo_bytes / kL2BytesPerCycle + kCopyLatency;
  const double exposed = p.halo_buffers == 2 ? halo : blocks * halo;
  const double taps = passes * blocks * p.taps, busy = taps * work, arriving = taps * copied / kL2BytesPerCycle;
  double over = passes * (blocks * p.taps * kernel.tap_overhead * (0.6 + 0.05 * chunks) + exposed + kPassCycles) +
                kStartCycles + pairs * kOutputCycles;
  int64_t ctas = static_cast<int64_t>(divide_up(batch, p.tile_n)) * p.tiles_h * p.tiles_w * p.n_tiles;
  double finish = 0;
  if (p.split == Split::kPartial) {
    const double bytes = 4.0 * kernel.threads() * kernel.sums() * passes;
    over += bytes / kL2BytesPerCycle;
    finish = kArrivalCycles + std::ceil(1.0 * ctas / device.multiprocessors) * p.chunks * bytes / kL2BytesPerCycle;
    ctas *= p.chunks;
  }
  const double each = std::ceil(1.0 * ctas / device.multiprocessors);
  const int held = static_cast<int>(std::min<double>(each, resident(kernel, shared_memory(p, kernel).bytes, device)));
  const double idle = std::max(1.0, 1.0 * kEnoughWarps / (held * warps));
  const double hidden = held == 1 ? 1 : held == 2 ? 0.85 : held == 3 ? 0.75 : 0.5;  // fitted to the replays, too
  return std::max(each * arriving, each * busy * idle + std::ceil(each / held) * over * hidden) + finish;
}

// Turns of the next block's halo that are copied in one stage.
int halo_copies(const ConvParams& p, const ConvKernel& kernel) {
  // With three places in the ring, what a tap's turn copies has arrived two barriers later: the last tap is too late.
  const int stages = kernel.ring_taps() == 3 ? p.taps - 1 : p.taps / kernel.stage_taps;
  return divide_up(shared_memory(p, kernel).halo_pixels * 8 / kernel.threads(), stages);
}

// Whether a CTA's shared memory has room for what it stages, and its stages time for the next halo's copies.
bool fits(const ConvParams& p, const ConvKernel& kernel, const DeviceInfo& device) {
  return shared_memory(p, kernel).bytes <= device.shared_bytes &&
         (p.halo_buffers == 1 || halo_copies(p, kernel) <= kernel.stage_taps * kCopyTurns);
}

// bank_turns(), worked out once a tile: kernels, buffers and splits by the dozen ask for the same one.
class BankTurns {
 public:
  double operator()(const ConvParams& p) {
    const std::array<int, 8> tile = {p.window_slots, p.sub_h,  p.sub_w,  p.tile_n,
                                     p.tile_h,       p.tile_w, p.halo_h, p.halo_w};
    const auto found = known_.find(tile);
    if (found != known_.end()) return found->second;
    return known_.emplace(tile, bank_turns(p)).first->second;
  }

 private:
  std::map<std::array<int, 8>, double> known_;
};

// Padding of the halo's rows with the fewest bank conflicts that still fits. Returns the turns of a matrix load.
double choose_padding(ConvParams& p, const ConvKernel& kernel, const DeviceInfo& device, BankTurns& turns_of) {
  double best = std::numeric_limits<double>::infinity();
  int best_pad = 0;
  for (int pad = 0; pad < 8 && best > 1; ++pad) {
    set_halo(p, pad);
    if (!fits(p, kernel, device)) break;
    const double turns = turns_of(p);
    if (turns < best) {
      best = turns;
      best_pad = pad;
    }
  }
  set_halo(p, best_pad);
  return best;
}

ConvParams layer_params(const ConvLayer& layer) {
  ConvParams p{};
  const int per_chunk = 16 / element_bytes(layer.precision);
  p.height = layer.height;
  p.width = layer.width;
  p.pixel_chunks = padded_channels(layer.in_channels, map_storage(layer.precision)) / per_chunk;
  p.channel_blocks = layer.channel_blocks();
  p.last_chunks = p.pixel_chunks - (p.channel_blocks - 1) * 8;
  p.out_h = layer.out_h();
  p.out_w = layer.out_w();
  p.out_channels = layer.out_channels;
  p.out_stride = padded_channels(layer.out_channels, layer.storage);
  p.n_padded = layer.n_padded();
  p.kernel = layer.kernel;
  p.taps = layer.kernel * layer.kernel;
  p.radius = layer.kernel / 2;
  p.stride_h = layer.stride_h;
  p.stride_w = layer.stride_w;
  p.pool_h = layer.pool_h;
  p.pool_w = layer.pool_w;
  p.activation = layer.activation;
  p.storage = layer.storage;
  p.chunk_blocks = chunk_blocks(layer);
  p.chunks = divide_up(p.channel_blocks, p.chunk_blocks);
  return p;
}

}  // namespace

int ConvLayer::channel_blocks() const {
  const int per_block = kBlockBytes / element_bytes(precision);
  return divide_up(in_channels, per_block);
}

Storage map_storage(Precision p) {
  switch (p) {
    case Precision::kTf32:
      return Storage::kTf32;
    case Precision::kFloat16:
      return Storage::kFloat16;
    case Precision::kBfloat16:
      return Storage::kBfloat16;
    default:
      return Storage::kFloat32;
  }
}

int padded_channels(int channels, Storage storage) {
  const int per_pair = 32 / storage_bytes(storage);
  return divide_up(channels, per_pair) * per_pair;
}

ConvPlan plan_conv(const ConvLayer& layer, int batch, const DeviceInfo& device) {
  return plan_conv(layer, batch, device, conv_kernels(layer.precision));
}

ConvPlan plan_conv(const ConvLayer& layer, int batch, const DeviceInfo& device,
                   const std::vector<ConvKernel>& kernels) {
  FCNTAG_CHECK(layer.height >= layer.pool_h && layer.width >= layer.pool_w, "conv_block: map ", layer.height, "x",
               layer.width, " is smaller than the pool window (", layer.pool_h, ", ", layer.pool_w, ")");
  FCNTAG_CHECK(batch > 0, "conv_block: batch=", batch, " must be positive");
  const ConvParams base = layer_params(layer);
  const double image_bytes = 16.0 * base.height * base.width * base.pixel_chunks;
  FCNTAG_CHECK(image_bytes <= std::numeric_limits<uint32_t>::max(), "conv_block: a map of ", image_bytes,
               " bytes an image is larger than its 32-bit offsets reach");
  ConvPlan best;
  best.cycles = std::numeric_limits<double>::infinity();
  BankTurns turns_of;
  // One tile, with every way to stage it in shared memory and to split its sums.
  const auto try_stages = [&](ConvParams p, const ConvKernel& kernel) {
    if ((p.tile_h - 1) * p.stride_h + p.pool_h + 2 > kLargestStretch) return;
    if ((p.tile_w - 1) * p.stride_w + p.pool_w + 2 > kLargestStretch) return;
    if (p.tile_n * image_bytes > std::numeric_limits<uint32_t>::max()) return;  // offsets within a tile have 32 bits
    if (kernel.stage_taps > p.kernel) return;
    for (p.halo_buffers = 1; p.halo_buffers <= (p.taps == 9 && p.channel_blocks > 1 ? 2 : 1); ++p.halo_buffers) {
      for (const Split split : {Split::kWhole, Split::kPartial}) {
        if (split == Split::kPartial && p.chunks == 1) continue;
        p.split = split;
        set_halo(p, 0);
        if (!fits(p, kernel, device)) return;
        if (estimate(p, kernel, layer, batch, 1, device) >= best.cycles) continue;
        const double turns = choose_padding(p, kernel, device, turns_of);
        const double cycles = estimate(p, kernel, layer, batch, turns, device);
        if (cycles >= best.cycles) continue;
        best.params = p;
        best.kernel = kernel;
        best.cycles = cycles;
      }
    }
  };
  for (const ConvKernel& kernel : kernels) {
    if (base.chunks > 1 && !kernel.chunked) continue;
    if (kernel.minimum_capability > device.major * 10 + device.minor) continue;
    ConvParams p = base;
    p.n_tiles = divide_up(p.out_channels, kernel.tile_n());
    // The elements of a window in several slots meet few bank conflicts. They come first: most of the others are then
    // ruled out before their conflicts are counted.
    for (p.window_slots = 8; p.window_slots >= 1; p.window_slots /= 2) {
      p.windows_per_group = 8 / p.window_slots;
      for (const int sub_h : parts(p.pool_h)) {
        for (const int sub_w : parts(p.pool_w)) {
          p.sub_h = sub_h;
          p.sub_w = sub_w;
          p.passes_h = divide_up(p.pool_h, sub_h);
          p.passes_w = divide_up(p.pool_w, sub_w);
          p.elements = divide_up(sub_h * sub_w, p.window_slots);
          if (p.elements > kernel.halves) continue;
          p.groups = kernel.halves / p.elements;
          const int windows = kernel.warps_m * p.groups * p.windows_per_group;
          for (const int tile_w : extents(p.out_w, windows)) {
            for (const int tile_h : extents(p.out_h, windows / tile_w)) {
              p.tile_w = tile_w;
              p.tile_h = tile_h;
              p.tile_n = std::min(batch, windows / (tile_w * tile_h));
              p.tiles_h = divide_up(p.out_h, tile_h);
              p.tiles_w = divide_up(p.out_w, tile_w);
              try_stages(p, kernel);
            }
          }
        }
      }
    }
  }
  if (!std::isfinite(best.cycles)) {
    std::ostringstream text;
    text << "conv_block: no tile of a layer with pool window (" << layer.pool_h << ", " << layer.pool_w << ") fits the "
         << device.shared_bytes << " bytes of shared memory of " << device.name;
    throw DeviceError(text.str());
  }
  ConvParams& p = best.params;
  const Shared shared = shared_memory(p, best.kernel);
  p.halo_pixels = shared.halo_pixels;
  best.shared_bytes = shared.bytes;
  const int64_t image_tiles = divide_up(batch, p.tile_n);
  best.ctas = static_cast<unsigned>(image_tiles * p.tiles_h * p.tiles_w * p.n_tiles);
  p.pixel_tiles = static_cast<int>(image_tiles * p.tiles_h * p.tiles_w);
  p.halo_turns = p.halo_pixels * 8 / best.kernel.threads();
  p.halo_copies = p.halo_buffers == 2 ? halo_copies(p, best.kernel) : 0;
  // Neighbours in a wave share the larger of two: the pixels, or in a deep layer the weights.
  const double weight_bytes = 1.0 * p.taps * p.channel_blocks * kBlockBytes * p.n_padded;
  const double map_bytes = 16.0 * batch * p.height * p.width * p.pixel_chunks;
  p.channels_first = map_bytes >= weight_bytes;
  p.by_first = divisor(p.channels_first ? p.n_tiles : p.pixel_tiles);
  p.by_tiles_w = divisor(p.tiles_w);
  p.by_tiles_h = divisor(p.tiles_h);
  best.tables = conv_tables(p, best.kernel);
  if (p.split == Split::kPartial) {
    best.partial_bytes = static_cast<std::size_t>(best.ctas) * p.chunks * p.passes_h * p.passes_w *
                         best.kernel.threads() * best.kernel.sums() * sizeof(float);
  }
  FCNTAG_CHECK(16.0 * std::numeric_limits<int32_t>::max() > map_bytes, "conv_block: a map of ", map_bytes,
               " bytes is larger than its 32-bit offsets reach; lower the batch");
  return best;
}

ConvParams bind_tables(const ConvPlan& plan, const void* device) {
  ConvParams p = plan.params;
  const uint8_t* bytes = static_cast<const uint8_t*>(device);
  p.rows = reinterpret_cast<const uint16_t*>(bytes);
  bytes += static_cast<std::size_t>(p.passes_h) * p.passes_w * plan.kernel.warps_m * plan.kernel.halves * 8 * 2;
  p.halo = reinterpret_cast<const TablePixel*>(bytes);
  p.windows = p.halo + p.halo_pixels;
  return p;
}

void run_conv(const ConvPlan& plan, const ConvParams& params, Stream stream) {
  const unsigned chunks = params.split == Split::kPartial ? static_cast<unsigned>(params.chunks) : 1;
  const unsigned threads = static_cast<unsigned>(plan.kernel.threads());
  launch(plan.kernel.launch, {dim3(plan.ctas, chunks), threads, plan.shared_bytes}, stream, params);
}

}  // namespace cuda
}  // namespace fcntag
