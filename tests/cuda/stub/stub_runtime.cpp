// CUDA's runtime and driver without a GPU, for csrc/cuda/runtime.cpp: contexts, the calls that make one, and the calls
// that end another thread's capture, after the manual. It computes nothing.
#include <cuda.h>
#include <cuda_runtime.h>

#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "stub.h"

struct StubContext {
  bool active;
};
struct StubStream {
  bool capturing;
};

namespace stub {

int calls = 0, set_device_calls = 0;
bool somebody_captures = false, capture_is_lost = false, busy = false;

namespace {

constexpr int kDevices = 2;
StubContext contexts[kDevices];
thread_local std::vector<CUcontext> stack;  // of the thread; its end is the current one
thread_local int chosen = 0;                // by cudaSetDevice(), for a thread without a context
thread_local cudaStreamCaptureMode mode = cudaStreamCaptureModeGlobal;

// A call that needs a context: where the thread has none, it gets one on the GPU that it has chosen.
void need_context() {
  ++calls;
  if (current() >= 0) return;
  contexts[chosen].active = true;
  if (stack.empty()) stack.emplace_back();
  stack.back() = &contexts[chosen];
}

cudaError_t unsafe() {
  need_context();
  if (!somebody_captures || mode == cudaStreamCaptureModeRelaxed) return cudaSuccess;
  capture_is_lost = true;
  return cudaErrorStreamCaptureUnsupported;
}

cudaError_t on_stream(cudaStream_t stream) {
  need_context();
  if (stream != nullptr || !somebody_captures) return cudaSuccess;
  capture_is_lost = true;
  return cudaErrorStreamCaptureImplicit;
}

template <typename Handle>
cudaError_t make(Handle* handle) {
  *handle = static_cast<Handle>(std::calloc(1, 64));
  return cudaSuccess;
}

cudaError_t drop(void* handle) {
  need_context();
  std::free(handle);
  return cudaSuccess;
}

}  // namespace

bool active(int device) { return contexts[device].active; }
int current() { return stack.empty() || stack.back() == nullptr ? -1 : static_cast<int>(stack.back() - contexts); }
int capture_mode() { return mode; }

}  // namespace stub

using namespace stub;

// ---- the driver ----

CUresult cuInit(unsigned) { return CUDA_SUCCESS; }
CUresult cuDeviceGet(CUdevice* device, int ordinal) {
  *device = ordinal;
  return ordinal >= 0 && ordinal < kDevices ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
}
CUresult cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice device) {
  ++calls;
  contexts[device].active = true;
  *context = &contexts[device];
  return CUDA_SUCCESS;
}
CUresult cuDevicePrimaryCtxGetState(CUdevice device, unsigned*, int* found) {
  *found = contexts[device].active;
  return CUDA_SUCCESS;
}
CUresult cuCtxGetCurrent(CUcontext* context) {
  ++calls;
  *context = stack.empty() ? nullptr : stack.back();
  return CUDA_SUCCESS;
}
CUresult cuCtxPushCurrent(CUcontext context) {
  ++calls;
  stack.push_back(context);
  return CUDA_SUCCESS;
}
CUresult cuCtxPopCurrent(CUcontext* context) {
  ++calls;
  *context = stack.back();
  stack.pop_back();
  return CUDA_SUCCESS;
}

// ---- the runtime ----

cudaError_t cudaGetDriverEntryPoint(const char* name, void** function, unsigned long long,
                                    cudaDriverEntryPointQueryResult* found) {
  const std::string wanted(name);
  *function = wanted == "cuInit"                       ? reinterpret_cast<void*>(&cuInit)
              : wanted == "cuDeviceGet"                ? reinterpret_cast<void*>(&cuDeviceGet)
              : wanted == "cuDevicePrimaryCtxRetain"   ? reinterpret_cast<void*>(&cuDevicePrimaryCtxRetain)
              : wanted == "cuDevicePrimaryCtxGetState" ? reinterpret_cast<void*>(&cuDevicePrimaryCtxGetState)
              : wanted == "cuCtxGetCurrent"            ? reinterpret_cast<void*>(&cuCtxGetCurrent)
              : wanted == "cuCtxPushCurrent"           ? reinterpret_cast<void*>(&cuCtxPushCurrent)
              : wanted == "cuCtxPopCurrent"            ? reinterpret_cast<void*>(&cuCtxPopCurrent)
                                                       : nullptr;
  *found = *function != nullptr ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
  return cudaSuccess;
}
cudaError_t cudaGetDriverEntryPointByVersion(const char* name, void** function, unsigned, unsigned long long flags,
                                             cudaDriverEntryPointQueryResult* found) {
  return cudaGetDriverEntryPoint(name, function, flags, found);
}
cudaError_t cudaGetLastError() { return cudaSuccess; }
const char* cudaGetErrorString(cudaError_t) { return "an error of the stub"; }
const char* cudaGetErrorName(cudaError_t) { return "stub"; }
cudaError_t cudaDriverGetVersion(int* version) { return *version = CUDART_VERSION, cudaSuccess; }
cudaError_t cudaRuntimeGetVersion(int* version) { return *version = CUDART_VERSION, cudaSuccess; }
cudaError_t cudaGetDeviceCount(int* count) { return *count = kDevices, cudaSuccess; }
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  std::memset(properties, 0, sizeof(*properties));
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) { return *value = 9, cudaSuccess; }
cudaError_t cudaGetDevice(int* device) { return *device = current() >= 0 ? current() : chosen, cudaSuccess; }
cudaError_t cudaSetDevice(int device) {
  ++set_device_calls;
  chosen = device;
  contexts[device].active = true;
  if (stack.empty()) stack.emplace_back();
  stack.back() = &contexts[device];
  return cudaSuccess;
}
cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* other) {
  ++calls;
  std::swap(mode, *other);
  return cudaSuccess;
}
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void*) {
  need_context();
  *attributes = {cudaMemoryTypeDevice, current()};
  return cudaSuccess;
}
cudaError_t cudaMemGetInfo(std::size_t* available, std::size_t* total) {
  need_context();
  *available = *total = 1 << 30;
  return cudaSuccess;
}
cudaError_t cudaMalloc(void** data, std::size_t bytes) {
  *data = std::malloc(bytes);
  return unsafe();
}
cudaError_t cudaFree(void* data) {
  std::free(data);
  return unsafe();
}
cudaError_t cudaMallocHost(void** data, std::size_t bytes) { return cudaMalloc(data, bytes); }
cudaError_t cudaFreeHost(void* data) { return cudaFree(data); }
cudaError_t cudaMemcpyAsync(void*, const void*, std::size_t, cudaMemcpyKind, cudaStream_t stream) {
  return on_stream(stream);
}
cudaError_t cudaMemsetAsync(void*, int, std::size_t, cudaStream_t stream) { return on_stream(stream); }
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  need_context();
  return make(stream);
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) { return drop(stream); }
cudaError_t cudaStreamSynchronize(cudaStream_t stream) { return on_stream(stream); }
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t, unsigned) { return on_stream(stream); }
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  need_context();
  if (stream == nullptr && somebody_captures) return cudaErrorStreamCaptureImplicit;
  *status = stream != nullptr && stream->capturing ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  return cudaSuccess;
}
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  need_context();
  stream->capturing = true;
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  need_context();
  stream->capturing = false;
  return make(graph);
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  need_context();
  return make(event);
}
cudaError_t cudaEventDestroy(cudaEvent_t event) { return drop(event); }
cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t stream) { return on_stream(stream); }
cudaError_t cudaEventQuery(cudaEvent_t) {
  const cudaError_t code = unsafe();
  return code == cudaSuccess && busy ? cudaErrorNotReady : code;
}
cudaError_t cudaEventSynchronize(cudaEvent_t) { return unsafe(); }
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t, cudaEvent_t) {
  *milliseconds = 1;
  return unsafe();
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* graph, cudaGraph_t, unsigned long long) {
  make(graph);
  return unsafe();
}
cudaError_t cudaGraphGetRootNodes(cudaGraph_t graph, cudaGraphNode_t* nodes, std::size_t* count) {
  *count = 1;
  if (nodes != nullptr) *nodes = reinterpret_cast<cudaGraphNode_t>(graph);
  return cudaSuccess;
}
cudaError_t cudaGraphExecKernelNodeSetParams(cudaGraphExec_t, cudaGraphNode_t, const cudaKernelNodeParams*) {
  return unsafe();
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) { return drop(graph); }
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph) { return drop(graph); }
cudaError_t cudaGraphLaunch(cudaGraphExec_t, cudaStream_t stream) { return on_stream(stream); }
cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute, int) { return unsafe(); }
cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void*, void**) {
  return on_stream(config->stream);
}
