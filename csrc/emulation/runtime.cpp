// cuda/runtime.h and cuda/launch.h on host memory, with the emulator in place of a GPU. For tests; shaped by the
// environment:
//   FCNTAG_EMULATED_DEVICES        how many GPUs there seem to be (1; 0: none)
//   FCNTAG_EMULATED_MEMORY         bytes of each (16 GiB)
//   FCNTAG_EMULATED_SHARED_BYTES   shared memory that a block may have (101376)
//   FCNTAG_EMULATED_CAPABILITY     compute capability (8.6); from 9.0 on kernels copy in bulk
//   FCNTAG_EMULATED_SEED           order of blocks, warps and lanes (0: in order)
//   FCNTAG_EMULATED_EAGER_COPIES   1: asynchronous copies land when issued
//   FCNTAG_EMULATED_LATE_STREAMS   1: work that is put on a stream runs when somebody waits for it (queues.h)
//
// Else work that is put on a stream runs at once, in the calling thread. Device memory is filled with NaN and lies
// between two zones that nobody may write: looked at after every launch, and by AddressSanitizer at every access.
#include "cuda/runtime.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <iterator>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "cuda/launch.h"
#include "emulation/emulator.h"
#include "emulation/inspect.h"
#include "emulation/queues.h"
#include "emulation/sanitizers.h"

namespace fcntag {
namespace cuda {
namespace {

constexpr std::size_t kZone = 256;  // bytes before and behind an allocation; also its alignment, as on a GPU
constexpr int kCanary = 0xc5;
constexpr int kPoison = 0xff;  // NaN in every floating-point type
constexpr std::size_t kMegabyte = 1000000;
constexpr int kMultiprocessors = 16;
constexpr std::size_t kCacheBytes = std::size_t{4} << 20;
constexpr int kVersion = 13000;
constexpr unsigned kMaxThreads = 1024, kMaxGridYZ = 65535;

using Work = std::function<void()>;

struct RecordedWork {
  Work work;
  const void* kernel;  // null: no launch
};

struct EmulatedStream {
  bool capturing = false;
  std::vector<RecordedWork> recorded;
};

struct EmulatedEvent {
  bool recorded = false;
  bool captured = false;  // its record() went into a graph
  Queues::Place place;
  std::chrono::steady_clock::time_point time;
};

struct Allocation {
  std::size_t bytes;
  int device;
};

// Everything that is shared by threads, under `mutex`.
struct State {
  std::mutex mutex;
  std::map<uint8_t*, Allocation> allocations;
  std::map<int, std::size_t> used;  // bytes by device
  std::set<Stream> streams;
  std::set<int> contexts;  // GPUs that have one
  Queues queues;
};

State& state() {
  static State* instance = new State;  // outlives every static object that still has memory to free
  return *instance;
}

thread_local int selected_device = 0;

int64_t setting(const char* name, int64_t otherwise) {
  const char* text = std::getenv(name);
  if (text == nullptr || *text == '\0') return otherwise;
  char* end;
  const int64_t value = std::strtoll(text, &end, 10);
  if (*end != '\0' || value < 0) throw DeviceError(std::string(name) + "=" + text + "; allowed: integers from 0");
  return value;
}

std::size_t memory_bytes() { return static_cast<std::size_t>(setting("FCNTAG_EMULATED_MEMORY", int64_t{16} << 30)); }

std::size_t shared_limit() { return static_cast<std::size_t>(setting("FCNTAG_EMULATED_SHARED_BYTES", 101376)); }

void check_device(int device) {
  const std::string reason = unavailable();
  if (!reason.empty()) throw DeviceError(reason);
  if (device < 0 || device >= device_count()) {
    throw DeviceError("device " + std::to_string(device) + " does not exist; there are " +
                      std::to_string(device_count()));
  }
}

// CUDA makes a context on the thread's GPU at its first call that needs one.
void need_context() {
  check_device(selected_device);
  const std::lock_guard<std::mutex> lock(state().mutex);
  state().contexts.insert(selected_device);
}

// ---- memory ----

bool intact(const uint8_t* zone) {
  return std::all_of(zone, zone + kZone, [](uint8_t byte) { return byte == kCanary; });
}

void check_zones(const uint8_t* data, std::size_t bytes) {
  if (emulator::kAddressSanitizer || (intact(data - kZone) && intact(data + bytes))) return;
  emulator::fail("device memory was written just outside of an allocation of %zu bytes", bytes);
}

void check_all_zones() {
  if (emulator::kAddressSanitizer) return;
  const std::lock_guard<std::mutex> lock(state().mutex);
  for (const auto& [data, allocation] : state().allocations) check_zones(data, allocation.bytes);
}

bool is_allocated(const void* p) {
  const uint8_t* address = static_cast<const uint8_t*>(p);
  const std::lock_guard<std::mutex> lock(state().mutex);
  const auto above = state().allocations.upper_bound(const_cast<uint8_t*>(address));
  if (above == state().allocations.begin()) return false;
  const auto& [data, allocation] = *std::prev(above);
  return address < data + allocation.bytes;
}

void* allocate(std::size_t bytes) {
  if (bytes == 0) return nullptr;
  need_context();
  const std::lock_guard<std::mutex> lock(state().mutex);
  const std::size_t capacity = memory_bytes();
  std::size_t& used = state().used[selected_device];
  const std::size_t free = capacity - std::min(capacity, used);
  uint8_t* block = nullptr;
  if (bytes <= free) {
    block = static_cast<uint8_t*>(std::aligned_alloc(kZone, (bytes + kZone - 1) / kZone * kZone + 2 * kZone));
  }
  if (block == nullptr) {
    throw DeviceError("cannot allocate " + std::to_string((bytes + kMegabyte - 1) / kMegabyte) +
                      " MB on the device: " + std::to_string(free / kMegabyte) + " MB free");
  }
  uint8_t* data = block + kZone;
  std::memset(block, kCanary, kZone);
  std::memset(data, kPoison, bytes);
  std::memset(data + bytes, kCanary, kZone);
  emulator::forbid(block, kZone);
  emulator::forbid(data + bytes, kZone);
  used += bytes;
  state().allocations[data] = {bytes, selected_device};
  return data;
}

void release(void* memory) {
  if (memory == nullptr) return;
  uint8_t* data = static_cast<uint8_t*>(memory);
  state().queues.reach_all();
  emulator::synchronize();  // kernels that are still to be waited for may use it
  const std::lock_guard<std::mutex> lock(state().mutex);
  const auto found = state().allocations.find(data);
  const Allocation allocation = found->second;
  check_zones(data, allocation.bytes);
  emulator::allow(data - kZone, allocation.bytes + 2 * kZone);
  state().used[allocation.device] -= allocation.bytes;
  state().allocations.erase(found);
  std::free(data - kZone);
}

// ---- streams ----

// Null for the default streams, which CUDA also knows as 1 (legacy) and 2 (one per thread).
EmulatedStream* find_stream(Stream stream) {
  if (reinterpret_cast<uintptr_t>(stream) <= 2) return nullptr;
  const std::lock_guard<std::mutex> lock(state().mutex);
  if (state().streams.count(stream) == 0) throw DeviceError("a stream that does not exist");
  return static_cast<EmulatedStream*>(stream);
}

bool streams_are_late() { return setting("FCNTAG_EMULATED_LATE_STREAMS", 0) != 0; }

void put(Stream stream, Work work, const void* kernel = nullptr) {
  need_context();
  EmulatedStream* emulated = find_stream(stream);
  if (emulated != nullptr && emulated->capturing) {
    emulated->recorded.push_back({std::move(work), kernel});
  } else if (streams_are_late()) {
    state().queues.put(stream, std::move(work));
  } else {
    work();
  }
}

void check_shape(const LaunchShape& shape) {
  const std::string prefix = "cannot launch a kernel: ";
  const dim3& grid = shape.grid;
  if (shape.threads == 0 || shape.threads > kMaxThreads) {
    throw DeviceError(prefix + std::to_string(shape.threads) + " threads; allowed: 1 to " +
                      std::to_string(kMaxThreads));
  }
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.x > 0x7fffffffu || grid.y > kMaxGridYZ || grid.z > kMaxGridYZ) {
    throw DeviceError(prefix + "a grid of " + std::to_string(grid.x) + " x " + std::to_string(grid.y) + " x " +
                      std::to_string(grid.z) + " blocks");
  }
  if (shape.shared_bytes > shared_limit()) {
    throw DeviceError(prefix + std::to_string(shape.shared_bytes) + " bytes of shared memory; the device has " +
                      std::to_string(shared_limit()) + " for a block");
  }
}

// One launch at a time, whatever OS threads they come from.
void run(const LaunchShape& shape, const Work& kernel) {
  static std::mutex running;
  const std::lock_guard<std::mutex> lock(running);
  emulator::is_device_memory = is_allocated;
  emulator::Options& options = emulator::options();
  const emulator::Options before = options;
  options.seed = static_cast<unsigned>(setting("FCNTAG_EMULATED_SEED", before.seed));
  options.eager_copies = setting("FCNTAG_EMULATED_EAGER_COPIES", before.eager_copies) != 0;
  options.bulk_copies = device_info(0).major >= 9;
  emulator::launch_overlapping(shape.grid, shape.threads, shape.shared_bytes, kernel);
  options = before;
  check_all_zones();
}

}  // namespace

const char* runtime_name() { return "emulated"; }

std::string unavailable() {
  return setting("FCNTAG_EMULATED_DEVICES", 1) > 0 ? "" : "no GPU: FCNTAG_EMULATED_DEVICES=0";
}

int device_count() { return static_cast<int>(setting("FCNTAG_EMULATED_DEVICES", 1)); }

DeviceInfo device_info(int device) {
  check_device(device);
  const char* capability = std::getenv("FCNTAG_EMULATED_CAPABILITY");
  if (capability == nullptr || *capability == '\0') capability = "8.6";
  DeviceInfo info;
  char behind;
  if (std::sscanf(capability, "%d.%d%c", &info.major, &info.minor, &behind) != 2) {
    throw DeviceError(std::string("FCNTAG_EMULATED_CAPABILITY=") + capability + "; allowed: MAJOR.MINOR");
  }
  info.index = device;
  info.name = "emulated";
  info.multiprocessors = kMultiprocessors;
  info.shared_bytes = shared_limit();
  info.memory_bytes = memory_bytes();
  info.cache_bytes = kCacheBytes;
  info.driver_version = info.runtime_version = kVersion;
  return info;
}

int current_device() { return selected_device; }

DeviceScope::DeviceScope(int device) : before_(selected_device) {
  check_device(device);
  selected_device = device;
  need_context();
}
DeviceScope::~DeviceScope() { selected_device = before_; }

bool has_context(int device) {
  const std::lock_guard<std::mutex> lock(state().mutex);
  return state().contexts.count(device) != 0;
}

void forget_contexts() {
  const std::lock_guard<std::mutex> lock(state().mutex);
  state().contexts.clear();
}

std::size_t recorded_work(Stream stream) {
  const EmulatedStream* emulated = find_stream(stream);
  return emulated == nullptr ? 0 : emulated->recorded.size();
}

int device_of(const void*) {  // the emulated device's memory is host memory
  need_context();
  return selected_device;
}

bool is_capturing(Stream stream) {
  need_context();
  const EmulatedStream* emulated = find_stream(stream);
  return emulated != nullptr && emulated->capturing;
}

std::size_t free_memory() {
  need_context();
  const std::lock_guard<std::mutex> lock(state().mutex);
  const std::size_t capacity = memory_bytes();
  return capacity - std::min(capacity, state().used[selected_device]);
}

DeviceMemory::DeviceMemory(std::size_t bytes) : data_(allocate(bytes)), bytes_(bytes) {}

DeviceMemory::~DeviceMemory() { release(data_); }

DeviceMemory::DeviceMemory(DeviceMemory&& other) noexcept { *this = std::move(other); }

DeviceMemory& DeviceMemory::operator=(DeviceMemory&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

PinnedMemory::PinnedMemory(std::size_t bytes) : bytes_(bytes) {
  if (bytes == 0) return;
  need_context();
  data_ = std::malloc(bytes);
  if (data_ == nullptr) throw DeviceError("cannot allocate " + std::to_string(bytes) + " bytes of host memory");
}

PinnedMemory::~PinnedMemory() {
  if (data_ != nullptr) state().queues.reach_all();
  std::free(data_);
}

PinnedMemory::PinnedMemory(PinnedMemory&& other) noexcept { *this = std::move(other); }

PinnedMemory& PinnedMemory::operator=(PinnedMemory&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

OwnStream::OwnStream() {
  need_context();
  stream_ = new EmulatedStream;
  const std::lock_guard<std::mutex> lock(state().mutex);
  state().streams.insert(stream_);
}

OwnStream::~OwnStream() {
  state().queues.reach(state().queues.end(stream_));
  {
    const std::lock_guard<std::mutex> lock(state().mutex);
    state().streams.erase(stream_);
  }
  delete static_cast<EmulatedStream*>(stream_);
}

Event::Event(bool) {
  need_context();
  event_ = new EmulatedEvent;
}

Event::~Event() { delete static_cast<EmulatedEvent*>(event_); }

void Event::record(Stream stream) {
  EmulatedStream* emulated = find_stream(stream);
  EmulatedEvent* event = static_cast<EmulatedEvent*>(event_);
  emulator::synchronize();
  event->captured = emulated != nullptr && emulated->capturing;
  event->recorded = !event->captured;
  event->time = std::chrono::steady_clock::now();
  event->place = state().queues.end(stream);
  if (event->captured) emulated->recorded.push_back({[] {}, nullptr});  // a trace of it in the graph
}

void Event::make_wait(Stream stream) const {
  const EmulatedStream* emulated = find_stream(stream);
  const bool capturing = emulated != nullptr && emulated->capturing;
  const EmulatedEvent* event = static_cast<const EmulatedEvent*>(event_);
  // All work before an event has been done when it is recorded. But by waiting for a captured event a stream joins the
  // capture, which is not emulated.
  if (event->captured && !capturing) {
    throw DeviceError("an emulated capture has one stream; another one waits for an event of it");
  }
  if (capturing || streams_are_late()) put(stream, [place = event->place] { state().queues.reach(place); });
}

void Event::synchronize() const {
  state().queues.reach(static_cast<const EmulatedEvent*>(event_)->place);
  emulator::synchronize();
}

bool Event::done() const { return state().queues.done(static_cast<const EmulatedEvent*>(event_)->place); }

double Event::seconds_between(const Event& start, const Event& end) {
  const EmulatedEvent* first = static_cast<const EmulatedEvent*>(start.event_);
  const EmulatedEvent* last = static_cast<const EmulatedEvent*>(end.event_);
  if (!first->recorded || !last->recorded) throw DeviceError("an event that was not recorded");
  end.synchronize();
  return std::chrono::duration<double>(last->time - first->time).count();
}

void upload(void* target, const void* source, std::size_t bytes) {
  const OwnStream stream;
  copy_to_device(target, source, bytes, stream.get());
  synchronize(stream.get());
}

void copy_on_device(void* target, const void* source, std::size_t bytes, Stream stream) {
  put(stream, [=] {
    emulator::synchronize();
    if (bytes > 0) std::memcpy(target, source, bytes);
  });
}

void copy_to_device(void* target, const void* source, std::size_t bytes, Stream stream) {
  copy_on_device(target, source, bytes, stream);
}

void copy_to_host(void* target, const void* source, std::size_t bytes, Stream stream) {
  copy_on_device(target, source, bytes, stream);
}

void set_zero(void* target, std::size_t bytes, Stream stream) {
  put(stream, [=] {
    emulator::synchronize();
    if (bytes > 0) std::memset(target, 0, bytes);
  });
}

void synchronize(Stream stream) {
  const EmulatedStream* emulated = find_stream(stream);
  if (emulated != nullptr && emulated->capturing) throw DeviceError("a stream in capture cannot be waited for");
  state().queues.reach(state().queues.end(stream));
  emulator::synchronize();
}

Graph::~Graph() { delete static_cast<std::vector<RecordedWork>*>(state_); }

void Graph::launch(Stream stream) {
  for (const RecordedWork& item : *static_cast<const std::vector<RecordedWork>*>(state_)) put(stream, item.work);
}

GraphCapture::GraphCapture(Stream stream) : stream_(stream) {
  EmulatedStream* emulated = find_stream(stream);
  if (emulated == nullptr) throw DeviceError("the default stream cannot be captured");
  if (emulated->capturing) throw DeviceError("a stream that is in capture already");
  emulated->recorded.clear();
  emulated->capturing = true;
}

GraphCapture::~GraphCapture() {
  if (!open_) return;
  EmulatedStream* emulated = static_cast<EmulatedStream*>(stream_);
  emulated->capturing = false;
  emulated->recorded.clear();
}

std::unique_ptr<Graph> GraphCapture::finish() {
  EmulatedStream* emulated = find_stream(stream_);
  std::unique_ptr<Graph> graph(new Graph);
  graph->state_ = new std::vector<RecordedWork>(std::move(emulated->recorded));
  emulated->recorded.clear();
  emulated->capturing = false;
  open_ = false;
  return graph;
}

void launch_emulated(const void* kernel, const LaunchShape& shape, Stream stream, std::function<void()> work) {
  check_device(selected_device);
  shared_memory_carveout();  // nothing is divided here, but a wrong setting is refused as elsewhere
  check_shape(shape);
  put(stream, [shape, work = std::move(work)] { run(shape, work); }, kernel);
}

void set_first_emulated(Graph& graph, const void* kernel, const LaunchShape& shape, std::function<void()> work) {
  std::vector<RecordedWork>& recorded = *static_cast<std::vector<RecordedWork>*>(graph.state());
  if (recorded.empty() || recorded.front().kernel == nullptr) {
    throw DeviceError("changing a graph: it does not begin with one launch");
  }
  // CUDA lets a node have another kernel. Nothing here means to, so that it would be a mistake.
  if (recorded.front().kernel != kernel) throw DeviceError("changing a graph: it begins with another kernel");
  check_shape(shape);
  recorded.front().work = [shape, work = std::move(work)] { run(shape, work); };
}

}  // namespace cuda
}  // namespace fcntag
