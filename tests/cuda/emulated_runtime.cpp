// emulated_runtime CASE: the promises of csrc/emulation/runtime.cpp about memory, streams, graphs, events and launches.
// Prints every check that fails; exit status 0: none. Also a library with one function, to be called from any thread.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "cuda/launch.h"
#include "cuda/runtime.h"
#include "planted_kernels.h"

namespace planted {
namespace {

namespace cuda = fcntag::cuda;
using cuda::DeviceError;
using cuda::DeviceMemory;
using cuda::LaunchShape;

int failures = 0;

void check(bool condition, const char* text, int line) {
  if (condition) return;
  std::printf("line %d: %s\n", line, text);
  ++failures;
}
#define CHECK(condition) check(condition, #condition, __LINE__)

// The message of the DeviceError that `call` has to throw.
template <typename Call>
std::string error(const Call& call) {
  try {
    call();
  } catch (const DeviceError& e) {
    return e.what();
  }
  return "no error";
}

void launch_fill(const DeviceMemory& x, float scale, cuda::Stream stream) {
  const int n = static_cast<int>(x.bytes() / sizeof(float));
  cuda::launch(&fill, LaunchShape{static_cast<unsigned>(n + 127) / 128, 128, 0}, stream,
               FillParams{x.as<float>(), n, scale});
}

std::vector<float> values(const DeviceMemory& x, cuda::Stream stream = nullptr) {
  std::vector<float> host(x.bytes() / sizeof(float));
  cuda::copy_to_host(host.data(), x.as<void>(), x.bytes(), stream);
  cuda::synchronize(stream);
  return host;
}

// With FCNTAG_EMULATED_MEMORY=10000000.
void memory() {
  CHECK(cuda::free_memory() == 10000000);
  DeviceMemory a(4000000);
  CHECK(cuda::free_memory() == 6000000);
  CHECK(reinterpret_cast<uintptr_t>(a.as<void>()) % 256 == 0);
  for (const float v : values(a)) CHECK(std::isnan(v));
  CHECK(error([] { DeviceMemory b(7654321); }) == "cannot allocate 8 MB on the device: 6 MB free");
  CHECK(cuda::free_memory() == 6000000);
  {
    DeviceMemory b(6000000);
    CHECK(error([] { DeviceMemory c(1); }) == "cannot allocate 1 MB on the device: 0 MB free");
    DeviceMemory moved(std::move(b));
    b = std::move(moved);
    CHECK(b.bytes() == 6000000 && cuda::free_memory() == 0);
  }
  CHECK(cuda::free_memory() == 6000000);
  DeviceMemory nothing(0);
  CHECK(nothing.as<void>() == nullptr && nothing.bytes() == 0);
  cuda::set_zero(a.as<void>(), a.bytes(), nullptr);
  for (const float v : values(a)) CHECK(v == 0.0f);
  DeviceMemory copy(a.bytes());
  cuda::copy_on_device(copy.as<void>(), a.as<void>(), a.bytes(), nullptr);
  CHECK(values(copy) == values(a));
  cuda::PinnedMemory pinned(100);
  std::memset(pinned.as<void>(), 0, pinned.bytes());
}

// With FCNTAG_EMULATED_DEVICES=2, FCNTAG_EMULATED_CAPABILITY=7.5, FCNTAG_EMULATED_SHARED_BYTES=65536.
void devices() {
  CHECK(cuda::unavailable().empty() && cuda::device_count() == 2);
  const cuda::DeviceInfo info = cuda::device_info(1);
  CHECK(info.index == 1 && info.name == "emulated" && info.major == 7 && info.minor == 5);
  CHECK(info.shared_bytes == 65536 && info.memory_bytes == std::size_t{16} << 30 && info.multiprocessors > 0);
  CHECK(error([] { const cuda::DeviceScope scope(2); }) == "device 2 does not exist; there are 2");
  const std::size_t before = cuda::free_memory();
  DeviceMemory x;
  {
    const cuda::DeviceScope scope(1);
    x = DeviceMemory(1000);
    CHECK(cuda::free_memory() == before - 1000);
  }
  CHECK(cuda::free_memory() == before);  // of device 0 again
}

// With FCNTAG_EMULATED_DEVICES=0.
void no_device() {
  CHECK(cuda::unavailable() == "no GPU: FCNTAG_EMULATED_DEVICES=0" && cuda::device_count() == 0);
  CHECK(error([] { DeviceMemory x(1); }) == cuda::unavailable());
  CHECK(error([] { cuda::OwnStream stream; }) == cuda::unavailable());
  CHECK(error([] { cuda::device_info(0); }) == cuda::unavailable());
}

void launches() {
  const auto launch_as = [](dim3 grid, unsigned threads, std::size_t shared_bytes) {
    return error(
        [=] { cuda::launch(&fill, LaunchShape{grid, threads, shared_bytes}, nullptr, FillParams{nullptr, 0, 1.0f}); });
  };
  CHECK(launch_as(1, 128, 101376) == "no error");
  CHECK(launch_as(1, 128, 101377) ==
        "cannot launch a kernel: 101377 bytes of shared memory; the device has 101376 for a block");
  CHECK(launch_as(1, 1025, 0) == "cannot launch a kernel: 1025 threads; allowed: 1 to 1024");
  CHECK(launch_as(1, 0, 0) == "cannot launch a kernel: 0 threads; allowed: 1 to 1024");
  CHECK(launch_as(dim3(1, 0), 32, 0) == "cannot launch a kernel: a grid of 1 x 0 x 1 blocks");
  CHECK(launch_as(dim3(1, 1, 65536), 32, 0) == "cannot launch a kernel: a grid of 1 x 1 x 65536 blocks");
  for (const unsigned threads : {1u, 7u, 128u, 1024u, 33u}) CHECK(launch_as(2, threads, 64) == "no error");
}

void graphs() {
  cuda::OwnStream own, other;
  const cuda::Stream stream = own.get();
  DeviceMemory x(1000 * sizeof(float)), y(x.bytes());
  float source[2] = {1.0f, 2.0f};
  cuda::set_zero(x.as<void>(), x.bytes(), stream);

  std::unique_ptr<cuda::Graph> graph;
  {
    cuda::GraphCapture capture(stream);
    launch_fill(x, 3.0f, stream);
    cuda::copy_to_device(x.as<void>(), source, sizeof(source), stream);
    cuda::copy_on_device(y.as<void>(), x.as<void>(), x.bytes(), stream);
    cuda::set_zero(x.as<float>() + 3, sizeof(float), stream);
    CHECK(error([&] { cuda::synchronize(stream); }) == "a stream in capture cannot be waited for");
    CHECK(error([&] { cuda::GraphCapture again(stream); }) == "a stream that is in capture already");
    launch_fill(y, 0.0f, other.get());  // another stream: not recorded
    graph = capture.finish();
  }
  CHECK(values(x)[2] == 0.0f && values(y)[2] == 0.0f);  // recorded, not run
  source[0] = 7.0f;
  graph->launch(stream);
  CHECK(values(x)[0] == 7.0f && values(x)[2] == -369.0f && values(x)[3] == 0.0f);
  CHECK(values(y)[1] == 2.0f && values(y)[3] == -366.0f);
  source[0] = 8.0f;
  graph->launch(other.get());
  CHECK(values(y)[0] == 8.0f);

  // The first launch gets other parameters; the rest of the graph stays as it is.
  const auto set_first = [&](cuda::Graph& changed, auto kernel, dim3 grid, const auto& params) {
    return error([&] { cuda::set_first_launch(changed, kernel, LaunchShape{grid, 128, 0}, params); });
  };
  CHECK(set_first(*graph, &fill, 8, FillParams{y.as<float>(), 3, 5.0f}) == "no error");
  cuda::set_zero(x.as<void>(), x.bytes(), stream);
  CHECK(values(x)[4] == 0.0f);
  graph->launch(stream);
  CHECK(values(x)[0] == 8.0f && values(x)[4] == 0.0f && values(y)[0] == 8.0f && values(y)[2] == 0.0f);
  CHECK(set_first(*graph, &fill, dim3(1, 0), FillParams{}) == "cannot launch a kernel: a grid of 1 x 0 x 1 blocks");
  CHECK(set_first(*graph, &scale<Bug::kNone>, 8, ScaleParams{}) == "changing a graph: it begins with another kernel");
  {
    cuda::GraphCapture capture(stream);
    cuda::set_zero(x.as<void>(), x.bytes(), stream);
    launch_fill(x, 3.0f, stream);
    std::unique_ptr<cuda::Graph> late = capture.finish();
    CHECK(set_first(*late, &fill, 8, FillParams{}) == "changing a graph: it does not begin with one launch");
  }
  {
    cuda::GraphCapture dropped(stream);
  }
  launch_fill(x, 1.0f, stream);
  CHECK(values(x)[0] == -125.0f);
  CHECK(error([] { cuda::GraphCapture capture(nullptr); }) == "the default stream cannot be captured");
  int no_stream;
  CHECK(error([&] { cuda::synchronize(&no_stream); }) == "a stream that does not exist");
}

void events() {
  cuda::OwnStream stream;
  cuda::Event start(true), end(true);
  CHECK(error([&] { cuda::Event::seconds_between(start, end); }) == "an event that was not recorded");
  DeviceMemory x(100000);
  start.record(stream.get());
  launch_fill(x, 1.0f, stream.get());
  end.record(stream.get());
  end.make_wait(nullptr);
  CHECK(cuda::Event::seconds_between(start, end) > 0.0);
  cuda::OwnStream captured;
  cuda::GraphCapture capture(captured.get());
  end.record(captured.get());
  CHECK(error([&] { end.make_wait(stream.get()); }) != "no error");
}

// With FCNTAG_EMULATED_LATE_STREAMS=1.
void late_streams() {
  cuda::OwnStream first, second;
  DeviceMemory x(1000 * sizeof(float)), y(x.bytes());
  std::vector<float> host(1000, 5.0f);
  const auto read = [](const DeviceMemory& memory) { return memory.as<float>()[2]; };
  cuda::Event event(false);
  launch_fill(x, 1.0f, first.get());
  event.record(first.get());
  launch_fill(x, 2.0f, first.get());  // behind the event
  CHECK(std::isnan(read(x)) && !event.done());
  cuda::copy_on_device(y.as<void>(), x.as<void>(), x.bytes(), second.get());
  cuda::synchronize(second.get());
  CHECK(std::isnan(read(y)));  // it waited for nothing
  event.make_wait(second.get());
  cuda::copy_on_device(y.as<void>(), x.as<void>(), x.bytes(), second.get());
  CHECK(std::isnan(read(y)));
  cuda::synchronize(second.get());
  CHECK(read(y) == -123.0f && read(x) == -123.0f && event.done());
  cuda::synchronize(first.get());
  CHECK(read(x) == -246.0f);
  launch_fill(x, 3.0f, nullptr);
  cuda::upload(y.as<void>(), host.data(), y.bytes());
  CHECK(read(y) == 5.0f && read(x) == -246.0f);          // it waited for its own copy alone
  cuda::synchronize(reinterpret_cast<cuda::Stream>(1));  // the other name of the default stream
  CHECK(read(x) == -369.0f);
  launch_fill(x, 4.0f, first.get());
  event.record(first.get());
  event.synchronize();
  CHECK(read(x) == -492.0f);
  launch_fill(x, 5.0f, first.get());
  {
    DeviceMemory freed(4);
  }
  CHECK(read(x) == -615.0f);  // a free waits for everything
}

int wrong_values(int n) {
  DeviceMemory x(static_cast<std::size_t>(n) * sizeof(float)), y(x.bytes());
  launch_fill(x, 2.0f, nullptr);
  const unsigned blocks = static_cast<unsigned>((n - 1) / (kReverseTile * kReverseTiles) + 1);
  cuda::launch(&reverse_tiles<Bug::kNone>, LaunchShape{blocks, kReverseThreads, kReverseShared}, nullptr,
               ReverseParams{x.as<float>(), y.as<float>(), n});
  const std::vector<float> in = values(x), out = values(y);
  int wrong = 0;
  for (int i = 0; i < n; ++i) {
    const int source = i / kReverseTile * kReverseTile + kReverseTile - 1 - i % kReverseTile;
    wrong += in[static_cast<std::size_t>(i)] != 2.0f * static_cast<float>(i % 251 - 125);
    wrong += out[static_cast<std::size_t>(i)] != (source < n ? in[static_cast<std::size_t>(source)] : 0.0f);
  }
  return wrong;
}

void compute() { CHECK(wrong_values(10000) == 0); }

void threads() {
  int wrong[3] = {};
  std::vector<std::thread> running;
  for (int& count : wrong) running.emplace_back([&count] { count = wrong_values(20000); });
  for (std::thread& thread : running) thread.join();
  for (const int count : wrong) CHECK(count == 0);
}

// Aborts: the bytes before an allocation are looked at when it is freed.
void write_before() {
  DeviceMemory x(100);
  static_cast<volatile uint8_t*>(x.as<uint8_t>())[-1] = 0;
}

// Aborts: 16 of 48 lanes are no warp.
void incomplete_warp() {
  DeviceMemory x(48 * sizeof(double)), y(x.bytes());
  cuda::launch(&rotate_and_swap<Bug::kNone>, LaunchShape{1, 48, 32 * sizeof(double)}, nullptr,
               RotateParams{x.as<double>(), y.as<double>()});
}

}  // namespace
}  // namespace planted

// How many values of two kernels' results are wrong.
extern "C" __attribute__((visibility("default"))) int fcntag_emulated_self_test(int n) {
  return planted::wrong_values(n);
}

int main(int count, char** arguments) {
  const std::map<std::string, void (*)()> cases = {
      {"memory", planted::memory},
      {"devices", planted::devices},
      {"no-device", planted::no_device},
      {"launches", planted::launches},
      {"graphs", planted::graphs},
      {"events", planted::events},
      {"late-streams", planted::late_streams},
      {"compute", planted::compute},
      {"threads", planted::threads},
      {"write-before", planted::write_before},
      {"incomplete-warp", planted::incomplete_warp},
  };
  const auto found = cases.find(count == 2 ? arguments[1] : "");
  if (found == cases.end()) return 2;
  try {
    found->second();
  } catch (const fcntag::cuda::DeviceError& e) {
    std::printf("DeviceError: %s\n", e.what());
    return 1;
  }
  return planted::failures == 0 ? 0 : 1;
}
