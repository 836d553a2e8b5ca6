// check_runtime CASE: csrc/cuda/runtime.cpp on a stub of CUDA. Prints every check that fails; exit status 0: none.
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <utility>

#include "cuda/launch.h"
#include "cuda/runtime.h"
#include "stub.h"

namespace {

namespace cuda = fcntag::cuda;

int failures = 0;

void check(bool condition, const char* text, int line) {
  if (condition) return;
  std::printf("line %d: %s\n", line, text);
  ++failures;
}
#define CHECK(condition) check(condition, #condition, __LINE__)

void kernel(int) {}

// Something of every kind that an engine holds.
struct Everything {
  cuda::DeviceMemory memory{1000}, moved;
  cuda::PinnedMemory pinned{1000}, moved_pinned;
  cuda::OwnStream stream;
  cuda::Event event{true}, waited{false};
  std::unique_ptr<cuda::Graph> graph;

  Everything() {
    const float value = 1.0f;
    cuda::upload(memory.as<void>(), &value, sizeof(value));
    moved = std::move(memory);
    moved_pinned = std::move(pinned);
    cuda::GraphCapture capture(stream.get());
    cuda::launch(&kernel, {dim3(1), 32, 100000}, stream.get(), 0);
    graph = capture.finish();
    graph->launch(stream.get());
    int parameter = 1;
    void* parameters[] = {&parameter};
    cuda::set_first_kernel(*graph, reinterpret_cast<const void*>(&kernel), {dim3(1), 32, 0}, parameters);
    event.record(stream.get());
    waited.record(stream.get());
    waited.make_wait(stream.get());
    cuda::copy_to_host(moved_pinned.as<void>(), moved.as<void>(), sizeof(value), stream.get());
    cuda::synchronize(stream.get());
    const cuda::GraphCapture dropped(stream.get());
  }
};

std::unique_ptr<Everything> make(int device) {
  const cuda::DeviceScope scope(device);
  CHECK(cuda::current_device() == device && stub::current() == device);
  CHECK(cuda::free_memory() > 0 && cuda::device_of(&failures) == device);
  return std::make_unique<Everything>();
}

// An engine on GPU 1 leaves GPU 0 alone: when it is made and used, and when it goes, in whatever thread.
void contexts() {
  CHECK(cuda::unavailable().empty() && cuda::device_count() == 2);
  cuda::device_info(0);
  CHECK(!cuda::has_context(0) && !cuda::has_context(1));
  std::unique_ptr<Everything> first = make(1), second = make(1);
  CHECK(stub::current() == -1);
  CHECK(first->event.done());
  first->event.synchronize();
  first.reset();
  std::thread([&] {
    second->waited.synchronize();
    second.reset();
    CHECK(stub::current() == -1);
  }).join();
  CHECK(cuda::has_context(1) && !cuda::has_context(0) && !stub::active(0));
  CHECK(cuda::current_device() == 0);  // what the caller allocates next still goes to GPU 0
  CHECK(stub::set_device_calls == 0);
}

// A thread that works on a GPU goes on there.
void callers() {
  {
    const cuda::DeviceScope scope(0);
  }
  CHECK(stub::current() == -1);
  cuda::DeviceMemory x(10);  // the thread's own choice
  CHECK(stub::current() == 0);
  std::unique_ptr<Everything> here = make(0), there = make(1);
  CHECK(stub::current() == 0);
  {
    const cuda::DeviceScope outer(1);
    const cuda::DeviceScope inner(0);
    const cuda::DeviceScope innermost(0);
    CHECK(cuda::current_device() == 0);
    there.reset();
    CHECK(cuda::current_device() == 0);
  }
  CHECK(stub::current() == 0 && stub::set_device_calls == 0);
  try {
    const cuda::DeviceScope scope(7);
    CHECK(false);
  } catch (const cuda::DeviceError&) {
  }
  CHECK(stub::current() == 0 && stub::capture_mode() == 0);
}

void fork_with_everything() {
  std::unique_ptr<Everything> held = make(1);
  auto capture = std::make_unique<cuda::GraphCapture>(held->stream.get());
  const pid_t child = fork();
  if (child == 0) {
    stub::calls = 0;
    capture.reset();
    held->event.synchronize();
    CHECK(held->event.done());
    held.reset();
    CHECK(stub::calls == 0);
    std::fflush(stdout);
    _exit(failures == 0 ? 0 : 1);
  }
  int status = 1;
  waitpid(child, &status, 0);
  CHECK(status == 0);
  capture.reset();
  const int before = stub::calls;
  held.reset();
  CHECK(stub::calls > before);  // the parent does give it all back
}

// Another thread records a graph of its own, on a stream that waits for the legacy default stream.
void captures() {
  stub::somebody_captures = true;
  {
    const cuda::DeviceScope scope(0);
    CHECK(cuda::is_capturing(nullptr));
    std::unique_ptr<Everything> everything = make(0);
    CHECK(!cuda::is_capturing(everything->stream.get()));
    stub::busy = true;
    CHECK(!everything->event.done());
    stub::busy = false;
    CHECK(everything->event.done());
    everything->event.synchronize();
  }
  make(1).reset();
  CHECK(!stub::capture_is_lost);
  CHECK(stub::capture_mode() == 0);  // the caller's again
}

}  // namespace

int main(int count, char** arguments) {
  const std::map<std::string, void (*)()> cases = {
      {"contexts", contexts}, {"callers", callers}, {"fork", fork_with_everything}, {"captures", captures}};
  const auto found = cases.find(count == 2 ? arguments[1] : "");
  if (found == cases.end()) return 2;
  try {
    found->second();
  } catch (const cuda::DeviceError& e) {
    std::printf("DeviceError: %s\n", e.what());
    return 1;
  }
  return failures == 0 ? 0 : 1;
}
