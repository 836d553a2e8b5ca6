// planted CASE [--seed N] [--eager]: runs a kernel of planted_kernels.h on the emulator and compares its output with a
// plain loop. Exit status 0: right, without bank conflicts, and nothing was reported. CASE "correct" runs all correct
// kernels.
#include "planted_kernels.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>
#include <vector>

#include "cuda/device/convert.h"
#include "cuda/launch.h"
#include "cuda/runtime.h"

namespace planted {
namespace {

using fcntag::cuda::DeviceMemory;
using fcntag::cuda::launch;
using fcntag::cuda::LaunchShape;
namespace cuda = fcntag::cuda;
namespace emulator = fcntag::emulator;

constexpr float kFillScale = 0.25f;

unsigned ceil_div(int a, int b) { return static_cast<unsigned>((a + b - 1) / b); }

template <typename T>
DeviceMemory to_device(const std::vector<T>& values) {
  DeviceMemory memory(values.size() * sizeof(T));
  cuda::copy_to_device(memory.as<void>(), values.data(), memory.bytes(), nullptr);
  return memory;
}

template <typename T>
bool matches(const DeviceMemory& memory, const std::vector<T>& expected) {
  std::vector<T> got(expected.size());
  cuda::copy_to_host(got.data(), memory.as<void>(), got.size() * sizeof(T), nullptr);
  std::size_t wrong = 0;
  for (std::size_t i = 0; i < got.size(); ++i) wrong += got[i] != expected[i];  // also where it is NaN
  if (wrong > 0) std::printf("wrong: %zu of %zu values\n", wrong, got.size());
  return wrong == 0;
}

// On the device: filled by a kernel, not by a copy, so that its reader has a predecessor to wait for.
DeviceMemory filled(int n) {
  DeviceMemory memory(static_cast<std::size_t>(n) * sizeof(float));
  launch(&fill, LaunchShape{ceil_div(n, 128), 128, 0}, nullptr, FillParams{memory.as<float>(), n, kFillScale});
  return memory;
}

float filled_at(int i) { return kFillScale * static_cast<float>(i % 251 - 125); }

template <Bug kBug, std::size_t kShared = kReverseShared>
bool run_reverse() {
  const int n = 3 * kReverseTiles * kReverseTile - 700;  // two and a half tiles of the last block
  DeviceMemory x = filled(n), y(x.bytes());
  launch(&reverse_tiles<kBug>, LaunchShape{3, kReverseThreads, kShared}, nullptr,
         ReverseParams{x.as<float>(), y.as<float>(), n});
  std::vector<float> expected(static_cast<std::size_t>(n));
  for (int i = 0; i < n; ++i) {
    const int source = i / kReverseTile * kReverseTile + kReverseTile - 1 - i % kReverseTile;
    expected[static_cast<std::size_t>(i)] = source < n ? filled_at(source) : 0.0f;
  }
  return matches(y, expected);
}

template <Bug kBug>
bool run_box() {
  const int height = 21, width = 45;
  DeviceMemory x = filled(height * width), y(x.bytes());
  const unsigned rows = kBug == Bug::kOverlappingBlocks ? ceil_div(height, kBoxH - 1) : ceil_div(height, kBoxH);
  launch(&box_sum<kBug>, LaunchShape{dim3(ceil_div(width, kBoxW), rows), kBoxW * kBoxH, kBoxShared}, nullptr,
         BoxParams{x.as<float>(), y.as<float>(), height, width});
  std::vector<float> expected;
  for (int i = 0; i < height * width; ++i) {
    float sum = 0.0f;
    for (int tap = 0; tap < 9; ++tap) {
      const int row = i / width + tap / 3 - 1, column = i % width + tap % 3 - 1;
      if (row >= 0 && row < height && column >= 0 && column < width) sum += filled_at(row * width + column);
    }
    expected.push_back(sum);
  }
  return matches(y, expected);
}

// Small integers, exact in every type; no two rows or columns alike.
int element(int row, int k) { return (row * 7 + k * 5 + row * k % 11) % 15 - 7; }

void encode(std::vector<uint8_t>& bytes, int value, Bfloat16) {
  const uint16_t x = emulator::to_bfloat16(static_cast<float>(value));
  bytes.insert(bytes.end(), {static_cast<uint8_t>(x), static_cast<uint8_t>(x >> 8)});
}
void encode(std::vector<uint8_t>& bytes, int value, Float16) {
  const uint16_t x = emulator::to_float16(static_cast<float>(value));
  bytes.insert(bytes.end(), {static_cast<uint8_t>(x), static_cast<uint8_t>(x >> 8)});
}
void encode(std::vector<uint8_t>& bytes, int value, Tf32) {
  const uint32_t x = dev::as_word(static_cast<float>(value)) | 0x1fffu;  // the bits that nobody looks at
  for (int i = 0; i < 4; ++i) bytes.push_back(static_cast<uint8_t>(x >> 8 * i));
}

template <Bug kBug, typename Type>
bool run_product() {
  const int m = 40, n = 56, k = 272 / Type::kBytes;
  std::vector<uint8_t> a, b;
  for (int i = 0; i < m * k; ++i) encode(a, element(i / k, i % k), Type());
  for (int i = 0; i < n * k; ++i) encode(b, element(i / k + 100, i % k), Type());
  std::vector<float> expected;
  for (int i = 0; i < m * n; ++i) {
    int sum = 0;
    for (int j = 0; j < k; ++j) sum += element(i / n, j) * element(i % n + 100, j);
    expected.push_back(static_cast<float>(sum));
  }
  DeviceMemory device_a = to_device(a), device_b = to_device(b), c(expected.size() * sizeof(float));
  launch(&product<kBug, Type>,
         LaunchShape{dim3(ceil_div(n, kProductTile), ceil_div(m, kProductTile)), kProductThreads, kProductShared},
         nullptr, ProductParams{device_a.as<uint8_t>(), device_b.as<uint8_t>(), c.as<float>(), m, n, k * Type::kBytes});
  return matches(c, expected);
}

template <Bug kBug>
bool run_rotate() {
  std::vector<double> x(3 * 32), expected(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<double>(i * i) + 0x1p-30;  // more than a float holds
  for (std::size_t i = 0; i < x.size(); ++i) expected[i] = x[i / 32 * 32 + (i + 1) % 32] + 3.0 * x[i ^ 1];
  DeviceMemory device_x = to_device(x), y(device_x.bytes());
  launch(&rotate_and_swap<kBug>, LaunchShape{3, 32, 32 * sizeof(double)}, nullptr,
         RotateParams{device_x.as<double>(), y.as<double>()});
  return matches(y, expected);
}

template <Bug kBug>
bool run_scale() {
  const int n = 300, lines = 1001;
  DeviceMemory x = filled(n), y(x.bytes()), next(128 * lines);
  const auto run = [&](const void* data, std::size_t bytes) {
    launch(&scale<kBug>, LaunchShape{ceil_div(n, kScaleThreads), kScaleThreads, 0}, nullptr,
           ScaleParams{x.as<float>(), y.as<float>(), n, data, static_cast<int64_t>(bytes)});
    return emulator::statistics().prefetches;
  };
  std::vector<float> expected;
  for (int i = 0; i < n; ++i) expected.push_back(2.0f * filled_at(i));
  const uint64_t asked = run(next.as<void>(), next.bytes()), asked_in_all = run(nullptr, 0);
  if (asked != lines || asked_in_all != asked) {
    std::printf("wrong: %llu of %d prefetches, then %llu\n", static_cast<unsigned long long>(asked), lines,
                static_cast<unsigned long long>(asked_in_all));
    return false;
  }
  return matches(y, expected);
}

// Every float16, and float32 values at, just below and just above the middle between any two of them.
bool run_conversions() {
  const auto value = [](unsigned h) { return emulator::from_float16(static_cast<uint16_t>(h)); };
  std::size_t wrong = 0;
  for (unsigned h = 0; h < 0x7c00; ++h) {
    const float exact = h < 0x400 ? std::ldexp(static_cast<float>(h), -24)
                                  : std::ldexp(static_cast<float>(0x400 + h % 0x400), static_cast<int>(h / 0x400) - 25);
    const float next = h == 0x7bff ? 65536.0f : value(h + 1), middle = (exact + next) / 2;
    const unsigned even = h % 2 == 0 ? h : h + 1;
    wrong += value(h) != exact || value(h | 0x8000) != -exact;
    wrong += emulator::to_float16(exact) != h || emulator::to_float16(-exact) != (h | 0x8000);
    wrong += emulator::to_float16(middle) != even || emulator::to_float16(-middle) != (even | 0x8000);
    wrong += emulator::to_float16(std::nextafter(middle, 0.0f)) != h;
    wrong += emulator::to_float16(std::nextafter(middle, INFINITY)) != h + 1;
  }
  wrong += emulator::to_float16(INFINITY) != 0x7c00 || emulator::to_float16(-3e38f) != 0xfc00;
  wrong += value(0x7c00) != INFINITY || !std::isnan(value(0x7e00)) || emulator::to_float16(NAN) != 0x7fff;
  for (uint32_t high = 0; high < 0x7f80; ++high) {  // bfloat16 is the upper half of a float32
    const uint32_t even = high % 2 == 0 ? high : high + 1;
    wrong += emulator::to_bfloat16(dev::as_float(high << 16)) != high;
    wrong += emulator::to_bfloat16(dev::as_float(high << 16 | 0x7fff)) != high;
    wrong += emulator::to_bfloat16(dev::as_float(high << 16 | 0x8000)) != even;
    wrong += emulator::to_bfloat16(dev::as_float(high << 16 | 0x8001)) != high + 1;
  }
  wrong += !std::isnan(dev::from_bfloat16(emulator::to_bfloat16(NAN)));
  if (wrong > 0) std::printf("wrong: %zu conversions\n", wrong);
  return wrong == 0;
}

using Case = bool (*)();

const std::map<std::string, Case>& correct_cases() {
  static const std::map<std::string, Case> cases = {
      {"reverse", run_reverse<Bug::kNone>},
      {"box", run_box<Bug::kNone>},
      {"product-bfloat16", run_product<Bug::kNone, Bfloat16>},
      {"product-float16", run_product<Bug::kNone, Float16>},
      {"product-tf32", run_product<Bug::kNone, Tf32>},
      {"rotate", run_rotate<Bug::kNone>},
      {"scale", run_scale<Bug::kNone>},
      {"conversions", run_conversions},
  };
  return cases;
}

const std::map<std::string, Case>& planted_cases() {
  static const std::map<std::string, Case> cases = {
      {"reverse-no-barrier-after-wait", run_reverse<Bug::kNoBarrierAfterWait>},
      {"reverse-no-barrier-before-reuse", run_reverse<Bug::kNoBarrierBeforeReuse>},
      {"reverse-no-async-wait", run_reverse<Bug::kNoAsyncWait>},
      {"reverse-copies-in-flight", run_reverse<Bug::kCopiesInFlight>},
      {"reverse-wait-too-deep", run_reverse<Bug::kWaitTooDeep>},
      {"reverse-early-return", run_reverse<Bug::kEarlyReturn>},
      {"reverse-read-beyond-input", run_reverse<Bug::kReadBeyondInput>},
      {"reverse-misaligned-copy", run_reverse<Bug::kMisalignedCopy>},
      {"reverse-unwritten-output", run_reverse<Bug::kUnwrittenOutput>},
      {"reverse-shared-memory-too-small", run_reverse<Bug::kNone, kReverseShared - 16>},
      {"reverse-late-wait-for-predecessors", run_reverse<Bug::kLateWaitForPredecessors>},
      {"reverse-no-wait-for-predecessors", run_reverse<Bug::kNoWaitForPredecessors>},
      {"box-halo-off-by-one", run_box<Bug::kHaloOffByOne>},
      {"box-no-barrier", run_box<Bug::kNoBarrier>},
      {"box-two-barriers", run_box<Bug::kTwoBarriers>},
      {"box-read-before-check", run_box<Bug::kReadBeforeCheck>},
      {"box-read-beyond-shared", run_box<Bug::kReadBeyondShared>},
      {"box-write-beyond-shared", run_box<Bug::kWriteBeyondShared>},
      {"box-write-beyond-output", run_box<Bug::kWriteBeyondOutput>},
      {"box-misaligned-vector", run_box<Bug::kMisalignedVector>},
      {"box-overlapping-blocks", run_box<Bug::kOverlappingBlocks>},
      {"product-wrong-half", run_product<Bug::kWrongHalf, Bfloat16>},
      {"product-misaligned-matrix", run_product<Bug::kMisalignedMatrix, Bfloat16>},
      {"product-half-warp", run_product<Bug::kHalfWarp, Bfloat16>},
      {"product-offset-for-address", run_product<Bug::kOffsetForAddress, Bfloat16>},
      {"product-no-swizzle", run_product<Bug::kNoSwizzle, Bfloat16>},
      {"rotate-shuffle-for-barrier", run_rotate<Bug::kShuffleForBarrier>},
      {"rotate-deadlock", run_rotate<Bug::kDeadlock>},
      {"scale-prefetch-beyond", run_scale<Bug::kPrefetchBeyond>},
      {"scale-prefetch-gap", run_scale<Bug::kPrefetchGap>},
  };
  return cases;
}

bool run_case(const std::string& name, Case run) {
  emulator::statistics() = {};
  bool right = run();
  const emulator::Statistics& statistics = emulator::statistics();
  if (statistics.matrix_conflicts > 0) {
    std::printf("bank conflicts: %llu of %llu phases\n", static_cast<unsigned long long>(statistics.matrix_conflicts),
                static_cast<unsigned long long>(statistics.matrix_phases));
    right = false;
  }
  std::printf("%s: %s\n", name.c_str(), right ? "right" : "WRONG");
  return right;
}

int main(int count, char** arguments) {
  std::string name;
  for (int i = 1; i < count; ++i) {
    const std::string argument = arguments[i];
    if (argument == "--eager") {
      emulator::options().eager_copies = true;
    } else if (argument == "--seed" && i + 1 < count) {
      emulator::options().seed = static_cast<unsigned>(std::atoi(arguments[++i]));
    } else {
      name = argument;
    }
  }
  bool right = true;
  if (name == "correct") {
    for (const auto& [case_name, run] : correct_cases()) right = run_case(case_name, run) && right;
    return right ? 0 : 1;
  }
  const auto found = planted_cases().find(name);
  if (found == planted_cases().end()) {
    for (const auto& [case_name, run] : planted_cases()) std::printf("%s\n", case_name.c_str());
    return 2;
  }
  return run_case(name, found->second) ? 0 : 1;
}

}  // namespace
}  // namespace planted

int main(int count, char** arguments) { return planted::main(count, arguments); }
