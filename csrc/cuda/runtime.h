// The host side of CUDA that the engine needs, and nothing more: memory, streams, events, graphs. Launches of kernels
// are in launch.h.
//
// runtime.cpp implements it on the CUDA runtime (linked statically). Everything else under csrc/cuda is written against
// this header, so that the tests can link another implementation.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>

#include <vector_types.h>

namespace fcntag {
namespace cuda {

// No usable GPU, no memory, or a call that failed: one line, becomes fcntag.errors.DeviceError.
class DeviceError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

struct DeviceInfo {
  int index = 0;
  std::string name;
  int major = 0, minor = 0;  // compute capability
  int multiprocessors = 0;
  std::size_t shared_bytes = 0;  // dynamic shared memory that a block may have
  std::size_t memory_bytes = 0;
  std::size_t cache_bytes = 0;                  // of the second level
  int driver_version = 0, runtime_version = 0;  // 1000 * major + 10 * minor
};

// "cuda", or the name of the implementation that takes the place of the CUDA runtime.
const char* runtime_name();
// "" if there is a GPU, else why there is none. Initialises CUDA, as everything below does; importing does not.
std::string unavailable();
int device_count();  // 0 if unavailable() says so
DeviceInfo device_info(int device);
int current_device();  // the calling thread's
// Whether anything in this process has made a context on the GPU: hundreds of megabytes of its memory.
bool has_context(int device);
// While it lives, the calling thread works on `device`. Afterwards it is as it was before, also where it had no context
// at all: a library must neither move its caller's next allocation to another GPU, nor make a context on a GPU that
// nobody uses. Graphs that other threads record meanwhile stay good: the thread's calls are none that end a capture.
//
// Everything below except DeviceScope itself needs one around it, unless the thread is known to work on the right GPU.
// Destructors and Event::synchronize() bring their own: they may run in any thread.
class DeviceScope {
 public:
  explicit DeviceScope(int device);
  ~DeviceScope();
  DeviceScope(const DeviceScope&) = delete;
  DeviceScope& operator=(const DeviceScope&) = delete;

 private:
  bool pushed_ = false;  // a context, which has to be taken away again
  int before_ = 0;       // the thread's mode of captures (in the emulator: its GPU)
};
// The GPU that `address` lies on, or -1 if it is no device memory (host memory, or nothing at all).
int device_of(const void* address);
std::size_t free_memory();  // bytes, of the current device

using Stream = void*;  // a cudaStream_t; null is the legacy default stream

// Copies to the device, and returns when the copy is there. It waits for no other work and touches no default stream:
// somebody may be recording a graph whose stream waits for that one.
void upload(void* target, const void* source, std::size_t bytes);

class DeviceMemory {
 public:
  DeviceMemory() = default;
  explicit DeviceMemory(std::size_t bytes);  // throws DeviceError that names the size and the free bytes
  ~DeviceMemory();
  DeviceMemory(DeviceMemory&& other) noexcept;
  DeviceMemory& operator=(DeviceMemory&& other) noexcept;
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;
  template <typename T>
  T* as() const {
    return static_cast<T*>(data_);
  }
  std::size_t bytes() const { return bytes_; }

 private:
  void* data_ = nullptr;
  std::size_t bytes_ = 0;
  int device_ = 0;
};

// Page-locked host memory: copies from and to it do not block.
class PinnedMemory {
 public:
  PinnedMemory() = default;
  explicit PinnedMemory(std::size_t bytes);
  ~PinnedMemory();
  PinnedMemory(PinnedMemory&& other) noexcept;
  PinnedMemory& operator=(PinnedMemory&& other) noexcept;
  PinnedMemory(const PinnedMemory&) = delete;
  PinnedMemory& operator=(const PinnedMemory&) = delete;
  template <typename T>
  T* as() const {
    return static_cast<T*>(data_);
  }
  std::size_t bytes() const { return bytes_; }

 private:
  void* data_ = nullptr;
  std::size_t bytes_ = 0;
  int device_ = 0;
};

class OwnStream {  // a stream of our own that does not wait for the legacy default stream
 public:
  OwnStream();
  ~OwnStream();
  OwnStream(const OwnStream&) = delete;
  OwnStream& operator=(const OwnStream&) = delete;
  Stream get() const { return stream_; }

 private:
  Stream stream_ = nullptr;
  int device_ = 0;
};

class Event {
 public:
  explicit Event(bool timing);
  ~Event();
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  void record(Stream stream);
  void make_wait(Stream stream) const;  // work put on `stream` from now on waits for the event
  void synchronize() const;             // the host waits; at once where nothing was recorded, and in a forked child
  bool done() const;                    // synchronize() would not wait
  static double seconds_between(const Event& start, const Event& end);  // waits for `end`

 private:
  void* event_ = nullptr;
  int device_ = 0;
};

void copy_to_device(void* target, const void* source, std::size_t bytes, Stream stream);
void copy_to_host(void* target, const void* source, std::size_t bytes, Stream stream);
void copy_on_device(void* target, const void* source, std::size_t bytes, Stream stream);
void set_zero(void* target, std::size_t bytes, Stream stream);
void synchronize(Stream stream);
// Whether work put on `stream` would be recorded, or would end somebody's recording: the legacy default stream must not
// be used while a stream that waits for it is in capture.
bool is_capturing(Stream stream);

// Launches recorded from a stream, to be replayed as one.
class Graph {
 public:
  ~Graph();
  void launch(Stream stream);
  void* state() const { return state_; }  // for the functions of launch.h

 private:
  friend class GraphCapture;
  Graph() = default;
  void* state_ = nullptr;
  int device_ = 0;
};

// While it lives, work that the thread puts on `stream` is recorded and not run. finish() gives the graph; without it,
// after an error on the way, the recording is dropped.
class GraphCapture {
 public:
  explicit GraphCapture(Stream stream);
  ~GraphCapture();
  std::unique_ptr<Graph> finish();

 private:
  Stream stream_;
  bool open_ = true;
};

// How much of a multiprocessor's L1 memory kernels ask to have as shared memory, in percent, or -1 to leave it to the
// driver: FCNTAG_CUDA_CARVEOUT, else 100. A multiprocessor changes its division only when no block runs on it. So
// kernels of one chain that ask for different ones cannot overlap there. Throws DeviceError for any other value.
int shared_memory_carveout();

struct LaunchShape {
  dim3 grid;
  unsigned threads = 0;
  std::size_t shared_bytes = 0;
};

}  // namespace cuda
}  // namespace fcntag
