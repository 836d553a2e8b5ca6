#include "cuda/ceilings.h"

#include <algorithm>
#include <vector>

#include "cuda/conv/conv_math.h"
#include "cuda/launch.h"

namespace fcntag {
namespace cuda {

namespace {

constexpr int kThreads = 256, kChains = 4;  // x 4 independent sums of a warp: more than the latency of the unit needs

// A GPU runs kSteps, beside which the start of a launch is nothing. A device so slow that fewer of them take
// kLongEnough (seconds) is measured by those.
constexpr int kFewestSteps = 2, kSteps = 4096;
constexpr double kLongEnough = 0.01;

struct ArithmeticParams {
  float* out;
  int steps;
};

template <typename Multiply>
FCNTAG_KERNEL(kThreads, 2)
matrix_rate(const FCNTAG_GRID_CONSTANT ArithmeticParams p) {
  if constexpr (dev::kCapability >= Multiply::kMinimumCapability) {
    dev::wait_for_predecessors();
    float c[kChains][4][4] = {};
    uint32_t a[4], b[2][4];
    // Positive operands near 2^-7 (bfloat16) or 1 (float16), whose lower seven bits are random: zeros would run faster,
    // and fully random operands, which draw more power, may run slower.
    uint32_t x = threadIdx.x * 2654435761u + blockIdx.x * 40503u + 1u;
    const auto next = [&x] {
      x = x * 1664525u + 1013904223u;
      return (x & 0x007f007fu) | 0x3c003c00u;
    };
    FCNTAG_UNROLL for (int i = 0; i < 4; ++i) a[i] = next();
    FCNTAG_UNROLL for (int i = 0; i < 8; ++i) b[i / 4][i % 4] = next();
    FCNTAG_NO_UNROLL for (int step = 0; step < p.steps; ++step) {
      FCNTAG_UNROLL for (int i = 0; i < kChains; ++i) Multiply::run(c[i], a, b);
    }
    float sum = 0.0f;
    FCNTAG_UNROLL for (int i = 0; i < kChains; ++i) {
      FCNTAG_UNROLL for (int j = 0; j < 16; ++j) sum += c[i][j / 4][j % 4];
    }
    p.out[blockIdx.x * kThreads + threadIdx.x] = sum;  // or the compiler would leave it all out
  }
}

FCNTAG_KERNEL(kThreads, 2)
fma_rate(const FCNTAG_GRID_CONSTANT ArithmeticParams p) {
  dev::wait_for_predecessors();
  constexpr int kSums = 32;
  float c[kSums];
  const float a = 0.5f + static_cast<float>(threadIdx.x) * 1e-3f, b = 0.25f;
  FCNTAG_UNROLL for (int i = 0; i < kSums; ++i) c[i] = static_cast<float>(i) * 0.1f;
  FCNTAG_NO_UNROLL for (int step = 0; step < p.steps; ++step) {
    FCNTAG_UNROLL for (int i = 0; i < kSums; ++i) c[i] = fmaf(c[i], a, b);
  }
  float sum = 0.0f;
  FCNTAG_UNROLL for (int i = 0; i < kSums; ++i) sum += c[i];
  p.out[blockIdx.x * kThreads + threadIdx.x] = sum;
}

constexpr int kSpinThreads = 32, kSpinChain = 16;

// Every multiply-add waits for the one before it.
FCNTAG_KERNEL(kSpinThreads, 1)
spin(const FCNTAG_GRID_CONSTANT ArithmeticParams p) {
  dev::wait_for_predecessors();
  float x = static_cast<float>(threadIdx.x);
  FCNTAG_NO_UNROLL for (int step = 0; step < p.steps; ++step) {
    FCNTAG_UNROLL for (int i = 0; i < kSpinChain; ++i) x = fmaf(x, 0.5f, 1.0f);
  }
  p.out[threadIdx.x] = x;
}

// FLOP of one thread's step.
double flop_per_step(Precision precision) {
  if (precision == Precision::kFloat32) return 2.0 * 32;
  const double per_mma = 2.0 * 16 * 8 * (element_bytes(precision) == 2 ? 16 : 8);
  return per_mma * 4 * kChains / 32;  // tf32x3 counts the products that the network asked for, a third of those done
}

template <typename Run>
double best_seconds(const Run& run) {
  OwnStream stream;
  double best = 1e30;
  for (int repeat = 0; repeat < 6; ++repeat) {
    Event start(true), end(true);
    start.record(stream.get());
    run(stream.get());
    end.record(stream.get());
    const double seconds = Event::seconds_between(start, end);
    if (repeat > 0) best = std::min(best, seconds);  // the first warms up
  }
  return best;
}

}  // namespace

double arithmetic_tflops(Precision precision, const DeviceInfo& device) {
  const DeviceScope scope(device.index);
  const unsigned blocks = static_cast<unsigned>(device.multiprocessors) * 2;
  DeviceMemory out(static_cast<std::size_t>(blocks) * kThreads * sizeof(float));
  ArithmeticParams params{out.as<float>(), kFewestSteps};
  void (*kernel)(ArithmeticParams) = &fma_rate;
  if (precision == Precision::kTf32) kernel = &matrix_rate<Tf32>;
  if (precision == Precision::kTf32x3) kernel = &matrix_rate<Tf32x3>;
  if (precision == Precision::kFloat16) kernel = &matrix_rate<Float16>;
  if (precision == Precision::kBfloat16) kernel = &matrix_rate<Bfloat16>;
  double seconds = 0;
  for (params.steps = kFewestSteps;; params.steps *= 2) {
    seconds = best_seconds([&](Stream stream) { launch(kernel, {dim3(blocks), kThreads, 0}, stream, params); });
    if (params.steps == kSteps || seconds >= kLongEnough) break;
  }
  return flop_per_step(precision) * params.steps * blocks * kThreads / seconds * 1e-12;
}

Spin::Spin(double seconds, Stream stream) : out_(kSpinThreads * sizeof(float)) {
  constexpr int kFewest = 64, kMost = 1 << 20;  // some microseconds; tens of milliseconds, whatever the clock
  steps_ = kFewest;
  put(stream);  // the first launch of a kernel loads it
  for (; steps_ < kMost; steps_ *= 2) {
    Event start(true), end(true);
    start.record(stream);
    put(stream);
    end.record(stream);
    if (Event::seconds_between(start, end) >= seconds) break;
  }
}

void Spin::put(Stream stream) const {
  launch(&spin, {dim3(1), kSpinThreads, 0}, stream, ArithmeticParams{out_.as<float>(), steps_});
}

double copy_gigabytes(const DeviceInfo& device) {
  const DeviceScope scope(device.index);
  // A sixth of the memory at most: the caches hold nothing of a gigabyte.
  const std::size_t bytes = std::min<std::size_t>(std::size_t{1} << 30, device.memory_bytes / 6);
  DeviceMemory source(bytes), target(bytes);
  const std::vector<uint8_t> pattern(1 << 20, 0x5b);
  OwnStream fill;
  for (std::size_t at = 0; at + pattern.size() <= bytes; at += pattern.size()) {
    copy_to_device(source.as<uint8_t>() + at, pattern.data(), pattern.size(), fill.get());
  }
  synchronize(fill.get());
  const double seconds =
      best_seconds([&](Stream stream) { copy_on_device(target.as<void>(), source.as<void>(), bytes, stream); });
  return 2.0 * static_cast<double>(bytes) / seconds * 1e-9;
}

}  // namespace cuda
}  // namespace fcntag
