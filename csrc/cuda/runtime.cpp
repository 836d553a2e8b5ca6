#include "cuda/runtime.h"

#include <cuda_runtime.h>

#include <sstream>

namespace fcntag {
namespace cuda {

namespace {

void check(cudaError_t code, const char* what) {
  if (code == cudaSuccess) return;
  cudaGetLastError();  // a failed launch must not be reported again by the next call
  throw DeviceError(std::string(what) + ": " + cudaGetErrorString(code) + " (" + cudaGetErrorName(code) + ")");
}

cudaStream_t native(Stream stream) { return static_cast<cudaStream_t>(stream); }

std::string megabytes(std::size_t bytes) { return std::to_string((bytes + (1 << 20) - 1) >> 20) + " MB"; }

}  // namespace

std::string unavailable() {
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
  cudaDriverGetVersion(&info.driver_version);
  cudaRuntimeGetVersion(&info.runtime_version);
  return info;
}

void set_device(int device) { check(cudaSetDevice(device), "choosing the GPU"); }

std::size_t free_memory() {
  std::size_t available = 0, total = 0;
  check(cudaMemGetInfo(&available, &total), "asking for free memory");
  return available;
}

DeviceMemory::DeviceMemory(std::size_t bytes) : bytes_(bytes) {
  if (bytes == 0) return;
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
  if (data_ != nullptr) cudaFree(data_);
}
DeviceMemory::DeviceMemory(DeviceMemory&& other) noexcept : data_(other.data_), bytes_(other.bytes_) {
  other.data_ = nullptr;
  other.bytes_ = 0;
}
DeviceMemory& DeviceMemory::operator=(DeviceMemory&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

PinnedMemory::PinnedMemory(std::size_t bytes) : bytes_(bytes) {
  if (bytes != 0) check(cudaMallocHost(&data_, bytes), "allocating page-locked memory");
}
PinnedMemory::~PinnedMemory() {
  if (data_ != nullptr) cudaFreeHost(data_);
}
PinnedMemory::PinnedMemory(PinnedMemory&& other) noexcept : data_(other.data_), bytes_(other.bytes_) {
  other.data_ = nullptr;
  other.bytes_ = 0;
}
PinnedMemory& PinnedMemory::operator=(PinnedMemory&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

OwnStream::OwnStream() {
  cudaStream_t stream = nullptr;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "creating a stream");
  stream_ = stream;
}
OwnStream::~OwnStream() { cudaStreamDestroy(native(stream_)); }

Event::Event(bool timing) {
  cudaEvent_t event = nullptr;
  check(cudaEventCreateWithFlags(&event, timing ? cudaEventDefault : cudaEventDisableTiming), "creating an event");
  event_ = event;
}
Event::~Event() { cudaEventDestroy(static_cast<cudaEvent_t>(event_)); }
void Event::record(Stream stream) {
  check(cudaEventRecord(static_cast<cudaEvent_t>(event_), native(stream)), "recording an event");
}
void Event::make_wait(Stream stream) const {
  check(cudaStreamWaitEvent(native(stream), static_cast<cudaEvent_t>(event_), 0), "waiting for an event");
}
void Event::synchronize() const {
  check(cudaEventSynchronize(static_cast<cudaEvent_t>(event_)), "waiting for the GPU");
}
double Event::seconds_between(const Event& start, const Event& end) {
  float milliseconds = 0;
  check(cudaEventSynchronize(static_cast<cudaEvent_t>(end.event_)), "waiting for the GPU");
  check(
      cudaEventElapsedTime(&milliseconds, static_cast<cudaEvent_t>(start.event_), static_cast<cudaEvent_t>(end.event_)),
      "reading a time");
  return 1e-3 * milliseconds;
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
void synchronize(Stream stream) { check(cudaStreamSynchronize(native(stream)), "waiting for the GPU"); }

Graph::~Graph() {
  if (state_ != nullptr) cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(state_));
}
void Graph::launch(Stream stream) {
  check(cudaGraphLaunch(static_cast<cudaGraphExec_t>(state_), native(stream)), "launching a graph");
}

GraphCapture::GraphCapture(Stream stream) : stream_(stream) {
  // Other threads of the process may allocate meanwhile: only this thread's unsafe calls end the capture.
  check(cudaStreamBeginCapture(native(stream), cudaStreamCaptureModeThreadLocal), "recording a graph");
}
GraphCapture::~GraphCapture() {
  if (!open_) return;
  cudaGraph_t graph = nullptr;
  cudaStreamEndCapture(native(stream_), &graph);
  if (graph != nullptr) cudaGraphDestroy(graph);
  cudaGetLastError();
}
std::unique_ptr<Graph> GraphCapture::finish() {
  cudaGraph_t graph = nullptr;
  open_ = false;
  check(cudaStreamEndCapture(native(stream_), &graph), "recording a graph");
  cudaGraphExec_t executable = nullptr;
  const cudaError_t code = cudaGraphInstantiate(&executable, graph, 0);
  cudaGraphDestroy(graph);
  check(code, "preparing a graph");
  std::unique_ptr<Graph> result(new Graph);
  result->state_ = executable;
  return result;
}

void launch_kernel(const void* kernel, const LaunchShape& shape, Stream stream, void** params) {
  if (shape.shared_bytes > 48 * 1024) {  // the limit that every kernel starts with
    check(
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shape.shared_bytes)),
        "asking for shared memory");
  }
  cudaLaunchConfig_t config = {};
  config.gridDim = shape.grid;
  config.blockDim = dim3(shape.threads);
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = native(stream);
  cudaLaunchAttribute attribute;
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  config.attrs = &attribute;
  static const bool programmatic = [] {  // the attribute is an error before compute capability 9.0
    int device = 0, major = 0;
    return cudaGetDevice(&device) == cudaSuccess &&
           cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) == cudaSuccess && major >= 9;
  }();
  config.numAttrs = programmatic ? 1 : 0;
  check(cudaLaunchKernelExC(&config, kernel, params), "launching a kernel");
}

}  // namespace cuda
}  // namespace fcntag
