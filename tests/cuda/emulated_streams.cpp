// Streams of "another library" on the emulated runtime, for Python by ctypes: linked into the emulated module, so that
// both see the same streams. Nothing is freed but by the end of the process.
#include <cstddef>
#include <map>
#include <memory>

#include "cuda/runtime.h"
#include "emulation/inspect.h"

namespace {

namespace cuda = fcntag::cuda;

std::map<cuda::Stream, std::unique_ptr<cuda::GraphCapture>> captures;

}  // namespace

#define EXPORTED extern "C" __attribute__((visibility("default")))

EXPORTED void* fcntag_test_stream(int device) {
  const cuda::DeviceScope scope(device);
  return (new cuda::OwnStream)->get();
}

EXPORTED void fcntag_test_copy(void* stream, void* target, const void* source, std::size_t bytes) {
  cuda::copy_on_device(target, source, bytes, stream);
}

EXPORTED void fcntag_test_synchronize(void* stream) { cuda::synchronize(stream); }

EXPORTED void fcntag_test_begin_capture(void* stream) {
  captures[stream] = std::make_unique<cuda::GraphCapture>(stream);
}

// What the capture has recorded; it is dropped.
EXPORTED int fcntag_test_end_capture(void* stream) {
  const int recorded = static_cast<int>(cuda::recorded_work(stream));
  captures.erase(stream);
  return recorded;
}

EXPORTED void fcntag_test_forget_contexts() { cuda::forget_contexts(); }
