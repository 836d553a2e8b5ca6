#include "cpu/workers.h"

namespace fcntag {
namespace {
// Below so many multiply-adds, the calling thread does a loop alone. They take one core about 20 microseconds, as long
// as it takes to wake the others and wait for the last of them.
constexpr double kSerial = 1.5e6;
}  // namespace

void Workers::loop(int64_t count, double multiply_adds, const std::function<void(int64_t, int)>& task) {
  if (multiply_adds < kSerial) {
    for (int64_t i = 0; i < count; ++i) task(i, 0);
  } else {
    pool_->run(count, task);
  }
}

void Workers::reserve(std::size_t scratch, std::size_t shared) {
  for (AlignedBuffer& buffer : scratch_) {
    if (buffer.size() < scratch) buffer = AlignedBuffer(scratch);
  }
  if (shared_.size() < shared) shared_ = AlignedBuffer(shared);
}

std::size_t Workers::bytes() const {
  std::size_t bytes = shared_.bytes();
  for (const AlignedBuffer& buffer : scratch_) bytes += buffer.bytes();
  return bytes;
}

}  // namespace fcntag
