#include "aligned_buffer.h"

#include <sys/mman.h>

#include <cstring>
#include <new>
#include <utility>

namespace fcntag {
namespace {
// A huge page saves TLB misses in weights and maps of many megabytes; below this size it would only waste memory.
constexpr std::size_t kHugePage = std::size_t{2} << 20;
}  // namespace

AlignedBuffer::AlignedBuffer(std::size_t count) : count_(count) {
  if (count == 0) return;
  if (count > (std::size_t{1} << 40)) throw std::bad_alloc();
  mapped_ = (count * sizeof(float) + 4095) / 4096 * 4096;
  void* pages = mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (pages == MAP_FAILED) {
    mapped_ = 0;
    throw std::bad_alloc();
  }
#ifdef MADV_HUGEPAGE
  if (mapped_ >= 2 * kHugePage) madvise(pages, mapped_, MADV_HUGEPAGE);
#endif
  data_ = static_cast<float*>(pages);
}

AlignedBuffer::~AlignedBuffer() {
  if (data_ != nullptr) munmap(data_, mapped_);
}

AlignedBuffer::AlignedBuffer(AlignedBuffer&& other) noexcept { *this = std::move(other); }

AlignedBuffer& AlignedBuffer::operator=(AlignedBuffer&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(count_, other.count_);
  std::swap(mapped_, other.mapped_);
  return *this;
}

void AlignedBuffer::zero() {
  if (data_ != nullptr) std::memset(data_, 0, mapped_);
}

}  // namespace fcntag
