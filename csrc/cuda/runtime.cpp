#include "cuda/runtime.h"

#include <cuda_runtime.h>
#include <unistd.h>

#include <mutex>
#include <set>
#include <sstream>
#include <utility>

#include "cuda/launch.h"
#include "cuda/primary_context.h"

namespace fcntag {
namespace cuda {

namespace {

void check(cudaError_t code, const char* what) {
  if (code == cudaSuccess) return;
  cudaGetLastError();  // a failed launch must not be reported again by the next call
  throw DeviceError(std::string(what) + ": " + cudaGetErrorString(code) + " (" + cudaGetErrorName(code) + ")");
}

cudaStream_t native(Stream stream) { return static_cast<cudaStream_t>(stream); }

// A forked child inherits the objects but not the context, so that their destructors must not call CUDA there. The
// first call remembers the process: everything that starts CUDA makes one.
bool forked() {
  static const pid_t started = getpid();
  return getpid() != started;
}

// What a destructor has to do: on the GPU that it belongs to, whatever the thread works on, and not at all in a forked
// child. Errors are of a device that is lost, or of a process that ends: nothing is left to give back.
template <typename Work>
void let_go(int device, const Work& work) {
  if (forked()) return;
  try {
    const DeviceScope scope(device);
    work();
  } catch (const DeviceError&) {
  }
}

std::string megabytes(std::size_t bytes) { return std::to_string((bytes + (1 << 20) - 1) >> 20) + " MB"; }

}  // namespace

const char* runtime_name() { return "cuda"; }

std::string unavailable() {
  forked();  // remembers the process
  int driver = 0;
  cudaDriverGetVersion(&driver);
  if (driver == 0) return "no NVIDIA driver is installed";
  int count = 0;
  const cudaError_t code = cudaGetDeviceCount(&count);
  // On an error the count says nothing.
  if (code == cudaSuccess && count > 0) return "";
  cudaGetLastError();
  if (code == cudaErrorInsufficientDriver) {
    int runtime = 0;
    cudaRuntimeGetVersion(&runtime);
    std::ostringstream text;
    text << "the NVIDIA driver is for CUDA " << driver / 1000 << "." << driver % 1000 / 10 << "; this build needs CUDA "
         << runtime / 1000 << ".0 or later";
    return text.str();
  }
  if (code == cudaSuccess || code == cudaErrorNoDevice) return "no NVIDIA GPU is visible";
  return cudaGetErrorString(code);
}

int device_count() {
  if (!unavailable().empty()) return 0;
  int count = 0;
  check(cudaGetDeviceCount(&count), "counting GPUs");
  return count;
}

DeviceInfo device_info(int device) {
  cudaDeviceProp properties;
  check(cudaGetDeviceProperties(&properties, device), "reading the GPU's properties");
  DeviceInfo info;
  info.index = device;
  info.name = properties.name;
  info.major = properties.major;
  info.minor = properties.minor;
  info.multiprocessors = properties.multiProcessorCount;
  info.shared_bytes = properties.sharedMemPerBlockOptin;
  info.memory_bytes = properties.totalGlobalMem;
  info.cache_bytes = static_cast<std::size_t>(properties.l2CacheSize);
  cudaDriverGetVersion(&info.driver_version);
  cudaRuntimeGetVersion(&info.runtime_version);
  return info;
}

int current_device() {
  int device = 0;
  check(cudaGetDevice(&device), "asking for the GPU");
  return device;
}

bool has_context(int device) { return primary_context_is_active(device); }

// Not cudaSetDevice(): it makes a context on the GPU that it is given, so that there would be no way back to one
// without. The runtime works in the driver's current context, and so do the other runtimes of the process.
DeviceScope::DeviceScope(int device) {
  forked();  // remembers the process
  pushed_ = push_context(device);
  cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
  const cudaError_t code = cudaThreadExchangeStreamCaptureMode(&mode);
  if (code != cudaSuccess && pushed_) pop_context();
  check(code, "choosing the mode of captures");
  before_ = mode;
}
DeviceScope::~DeviceScope() {
  if (forked()) return;
  cudaStreamCaptureMode mode = static_cast<cudaStreamCaptureMode>(before_);
  cudaThreadExchangeStreamCaptureMode(&mode);
  if (pushed_) pop_context();
}

int device_of(const void* address) {
  cudaPointerAttributes attributes;
  if (cudaPointerGetAttributes(&attributes, address) != cudaSuccess) {
    cudaGetLastError();
    return -1;
  }
  const bool on_device = attributes.type == cudaMemoryTypeDevice || attributes.type == cudaMemoryTypeManaged;
  return on_device ? attributes.device : -1;
}

std::size_t free_memory() {
  std::size_t available = 0, total = 0;
  check(cudaMemGetInfo(&available, &total), "asking for free memory");
  return available;
}

DeviceMemory::DeviceMemory(std::size_t bytes) : bytes_(bytes) {
  if (bytes == 0) return;
  device_ = current_device();
  const cudaError_t code = cudaMalloc(&data_, bytes);
  if (code == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    std::size_t available = 0, total = 0;
    cudaMemGetInfo(&available, &total);
    throw DeviceError("cannot allocate " + megabytes(bytes) + " on the device: " + megabytes(available) + " are free");
  }
  check(code, "allocating device memory");
}
DeviceMemory::~DeviceMemory() {
  if (data_ != nullptr) let_go(device_, [&] { cudaFree(data_); });
}
DeviceMemory::DeviceMemory(DeviceMemory&& other) noexcept
    : data_(other.data_), bytes_(other.bytes_), device_(other.device_) {
  other.data_ = nullptr;
  other.bytes_ = 0;
}
DeviceMemory& DeviceMemory::operator=(DeviceMemory&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  std::swap(device_, other.device_);
  return *this;
}

PinnedMemory::PinnedMemory(std::size_t bytes) : bytes_(bytes) {
  if (bytes == 0) return;
  device_ = current_device();
  check(cudaMallocHost(&data_, bytes), "allocating page-locked memory");
}
PinnedMemory::~PinnedMemory() {
  if (data_ != nullptr) let_go(device_, [&] { cudaFreeHost(data_); });
}
PinnedMemory::PinnedMemory(PinnedMemory&& other) noexcept
    : data_(other.data_), bytes_(other.bytes_), device_(other.device_) {
  other.data_ = nullptr;
  other.bytes_ = 0;
}
PinnedMemory& PinnedMemory::operator=(PinnedMemory&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  std::swap(device_, other.device_);
  return *this;
}

OwnStream::OwnStream() : device_(current_device()) {
  cudaStream_t stream = nullptr;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "creating a stream");
  stream_ = stream;
}
OwnStream::~OwnStream() {
  let_go(device_, [&] { cudaStreamDestroy(native(stream_)); });
}

Event::Event(bool timing) : device_(current_device()) {
  cudaEvent_t event = nullptr;
  check(cudaEventCreateWithFlags(&event, timing ? cudaEventDefault : cudaEventDisableTiming), "creating an event");
  event_ = event;
}
Event::~Event() {
  let_go(device_, [&] { cudaEventDestroy(static_cast<cudaEvent_t>(event_)); });
}
void Event::record(Stream stream) {
  check(cudaEventRecord(static_cast<cudaEvent_t>(event_), native(stream)), "recording an event");
}
void Event::make_wait(Stream stream) const {
  check(cudaStreamWaitEvent(native(stream), static_cast<cudaEvent_t>(event_), 0), "waiting for an event");
}
void Event::synchronize() const {
  if (forked()) return;
  const DeviceScope scope(device_);
  check(cudaEventSynchronize(static_cast<cudaEvent_t>(event_)), "waiting for the GPU");
}
bool Event::done() const {
  if (forked()) return true;
  const DeviceScope scope(device_);
  const cudaError_t code = cudaEventQuery(static_cast<cudaEvent_t>(event_));
  if (code == cudaErrorNotReady) {
    cudaGetLastError();
    return false;
  }
  check(code, "asking an event");
  return true;
}
double Event::seconds_between(const Event& start, const Event& end) {
  float milliseconds = 0;
  check(cudaEventSynchronize(static_cast<cudaEvent_t>(end.event_)), "waiting for the GPU");
  check(
      cudaEventElapsedTime(&milliseconds, static_cast<cudaEvent_t>(start.event_), static_cast<cudaEvent_t>(end.event_)),
      "reading a time");
  return 1e-3 * milliseconds;
}

void upload(void* target, const void* source, std::size_t bytes) {
  const OwnStream stream;
  copy_to_device(target, source, bytes, stream.get());
  synchronize(stream.get());
}
void copy_to_device(void* target, const void* source, std::size_t bytes, Stream stream) {
  if (bytes != 0)
    check(cudaMemcpyAsync(target, source, bytes, cudaMemcpyHostToDevice, native(stream)), "copying to the GPU");
}
void copy_to_host(void* target, const void* source, std::size_t bytes, Stream stream) {
  if (bytes != 0)
    check(cudaMemcpyAsync(target, source, bytes, cudaMemcpyDeviceToHost, native(stream)), "copying from the GPU");
}
void copy_on_device(void* target, const void* source, std::size_t bytes, Stream stream) {
  if (bytes != 0)
    check(cudaMemcpyAsync(target, source, bytes, cudaMemcpyDeviceToDevice, native(stream)), "copying on the GPU");
}
void set_zero(void* target, std::size_t bytes, Stream stream) {
  if (bytes != 0) check(cudaMemsetAsync(target, 0, bytes, native(stream)), "clearing device memory");
}
bool is_capturing(Stream stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  const cudaError_t code = cudaStreamIsCapturing(native(stream), &status);
  if (code == cudaErrorStreamCaptureImplicit) {
    cudaGetLastError();
    return true;
  }
  check(code, "asking whether a stream is recorded");
  return status != cudaStreamCaptureStatusNone;
}
void synchronize(Stream stream) { check(cudaStreamSynchronize(native(stream)), "waiting for the GPU"); }

namespace {
struct RecordedGraph {
  cudaGraph_t graph = nullptr;  // kept: its nodes name those of `executable`
  cudaGraphExec_t executable = nullptr;
  cudaGraphNode_t first = nullptr;  // null if the graph does not begin with one launch

  RecordedGraph() = default;
  ~RecordedGraph() {
    if (executable != nullptr) cudaGraphExecDestroy(executable);
    if (graph != nullptr) cudaGraphDestroy(graph);
  }
  RecordedGraph(const RecordedGraph&) = delete;
  RecordedGraph& operator=(const RecordedGraph&) = delete;
};

RecordedGraph& recorded(const Graph& graph) { return *static_cast<RecordedGraph*>(graph.state()); }
}  // namespace

Graph::~Graph() {
  if (state_ != nullptr) let_go(device_, [&] { delete static_cast<RecordedGraph*>(state_); });
}
void Graph::launch(Stream stream) {
  check(cudaGraphLaunch(recorded(*this).executable, native(stream)), "launching a graph");
}

GraphCapture::GraphCapture(Stream stream) : stream_(stream) {
  // Relaxed: a kernel's first use may load its module meanwhile, and other threads may allocate.
  check(cudaStreamBeginCapture(native(stream), cudaStreamCaptureModeRelaxed), "recording a graph");
}
GraphCapture::~GraphCapture() {
  if (!open_ || forked()) return;
  cudaGraph_t graph = nullptr;
  cudaStreamEndCapture(native(stream_), &graph);
  if (graph != nullptr) cudaGraphDestroy(graph);
  cudaGetLastError();
}
std::unique_ptr<Graph> GraphCapture::finish() {
  open_ = false;
  auto made = std::make_unique<RecordedGraph>();
  check(cudaStreamEndCapture(native(stream_), &made->graph), "recording a graph");
  std::size_t roots = 0;
  check(cudaGraphGetRootNodes(made->graph, nullptr, &roots), "reading a graph");
  if (roots == 1) check(cudaGraphGetRootNodes(made->graph, &made->first, &roots), "reading a graph");
  check(cudaGraphInstantiate(&made->executable, made->graph, 0), "preparing a graph");
  std::unique_ptr<Graph> result(new Graph);
  result->state_ = made.release();
  result->device_ = current_device();
  return result;
}

namespace {
// What a kernel is allowed and asks for, once for each kernel and GPU. It belongs to the kernel, not to a launch, so
// that it must not change under another thread's launch, or under a recorded one.
void prepare_kernel(const void* kernel, int device) {
  static std::mutex mutex;
  static std::set<std::pair<int, const void*>> prepared;
  const std::lock_guard<std::mutex> lock(mutex);
  if (prepared.count({device, kernel}) != 0) return;
  // Kernels start with a limit of 48 KB; it is raised to all there is.
  int limit = 0;
  check(cudaDeviceGetAttribute(&limit, cudaDevAttrMaxSharedMemoryPerBlockOptin, device),
        "reading the GPU's properties");
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, limit), "asking for shared memory");
  const int carveout = shared_memory_carveout();
  if (carveout >= 0) {
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, carveout),
          "asking for shared memory");
  }
  prepared.insert({device, kernel});
}
}  // namespace

void launch_kernel(const void* kernel, const LaunchShape& shape, Stream stream, void** params) {
  const int device = current_device();
  int major = 0;
  prepare_kernel(kernel, device);
  cudaLaunchConfig_t config = {};
  config.gridDim = shape.grid;
  config.blockDim = dim3(shape.threads);
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = native(stream);
  cudaLaunchAttribute attribute;
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  config.attrs = &attribute;
  // The attribute is an error before compute capability 9.0. Asking costs little, as launches are recorded once and
  // replayed.
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "reading the GPU's properties");
  config.numAttrs = major >= 9 ? 1 : 0;
  check(cudaLaunchKernelExC(&config, kernel, params), "launching a kernel");
}

void set_first_kernel(Graph& graph, const void* kernel, const LaunchShape& shape, void** params) {
  const RecordedGraph& made = recorded(graph);
  if (made.first == nullptr) throw DeviceError("changing a graph: it does not begin with one launch");
  cudaKernelNodeParams node = {};
  node.func = const_cast<void*>(kernel);
  node.gridDim = shape.grid;
  node.blockDim = dim3(shape.threads);
  node.sharedMemBytes = static_cast<unsigned>(shape.shared_bytes);
  node.kernelParams = params;
  check(cudaGraphExecKernelNodeSetParams(made.executable, made.first, &node), "changing a graph");
}

}  // namespace cuda
}  // namespace fcntag
