// The contexts of CUDA's driver, as far as runtime.cpp needs them: which GPUs of this process have one, and which one
// the calling thread works in.
#pragma once

#include <cuda.h>
#include <cuda_runtime.h>

#include <map>
#include <mutex>
#include <string>

#include "cuda/runtime.h"

namespace fcntag {
namespace cuda {

// Functions of the driver, found through the runtime: nothing is linked against the driver, which may not be there.
struct Driver {
  decltype(&cuInit) init;
  decltype(&cuDeviceGet) device_get;
  decltype(&cuDevicePrimaryCtxRetain) retain;
  decltype(&cuDevicePrimaryCtxGetState) get_state;
  decltype(&cuCtxGetCurrent) get_current;
  decltype(&cuCtxPushCurrent) push;
  decltype(&cuCtxPopCurrent) pop;
};

template <typename Function>
void find_in_driver(const char* name, Function& function) {
  void* address = nullptr;
  cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
#if CUDART_VERSION >= 12050
  const cudaError_t code = cudaGetDriverEntryPointByVersion(name, &address, 12000, cudaEnableDefault, &found);
#else
  const cudaError_t code = cudaGetDriverEntryPoint(name, &address, cudaEnableDefault, &found);
#endif
  if (code != cudaSuccess || found != cudaDriverEntryPointSuccess || address == nullptr) {
    cudaGetLastError();
    const std::string reason = unavailable();
    throw DeviceError(reason.empty() ? std::string("the NVIDIA driver has no ") + name + "; update it" : reason);
  }
  function = reinterpret_cast<Function>(address);
}

inline const Driver& driver() {
  static const Driver found = [] {
    Driver functions{};
    find_in_driver("cuInit", functions.init);
    find_in_driver("cuDeviceGet", functions.device_get);
    find_in_driver("cuDevicePrimaryCtxRetain", functions.retain);
    find_in_driver("cuDevicePrimaryCtxGetState", functions.get_state);
    find_in_driver("cuCtxGetCurrent", functions.get_current);
    find_in_driver("cuCtxPushCurrent", functions.push);
    find_in_driver("cuCtxPopCurrent", functions.pop);
    functions.init(0);  // makes no context; an error of it is the next call's, too
    return functions;
  }();
  return found;
}

inline void check_driver(CUresult code, const char* what) {
  if (code == CUDA_SUCCESS) return;
  throw DeviceError(std::string(what) + ": the driver's error " + std::to_string(static_cast<int>(code)));
}

inline CUdevice device_handle(int device) {
  CUdevice handle = 0;
  check_driver(driver().device_get(&handle, device), "choosing the GPU");
  return handle;
}

inline bool primary_context_is_active(int device) {
  unsigned flags = 0;
  int active = 0;
  check_driver(driver().get_state(device_handle(device), &flags, &active), "asking for the GPU's context");
  return active != 0;
}

// The context that the CUDA runtime uses on `device`; made by the first call. It is held to the end of the process, as
// the runtime holds it.
inline CUcontext primary_context(int device) {
  static std::mutex mutex;
  static std::map<int, CUcontext> contexts;
  const std::lock_guard<std::mutex> lock(mutex);
  const auto found = contexts.find(device);
  if (found != contexts.end()) return found->second;
  CUcontext context = nullptr;
  check_driver(driver().retain(&context, device_handle(device)), "making a context on the GPU");
  contexts[device] = context;
  return context;
}

// Makes `device`'s context the thread's. True if it was not so before: pop_context() has then to take it away.
inline bool push_context(int device) {
  const CUcontext wanted = primary_context(device);
  CUcontext current = nullptr;
  check_driver(driver().get_current(&current), "asking for the thread's context");
  if (current == wanted) return false;
  check_driver(driver().push(wanted), "choosing the GPU");
  return true;
}

inline void pop_context() {
  CUcontext popped = nullptr;
  driver().pop(&popped);
}

}  // namespace cuda
}  // namespace fcntag
