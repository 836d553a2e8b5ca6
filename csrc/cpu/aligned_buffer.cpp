#include "cpu/aligned_buffer.h"

#include <sys/mman.h>

#include <cstdint>
#include <cstring>
#include <new>
#include <utility>

namespace fcntag {
namespace {
// A huge page saves TLB misses. Its lines are also spread evenly over the sets of a physically indexed cache. Small
// pages are spread by luck, so that a scratch of half a level-2 cache would be slower in some processes than in others.
constexpr std::size_t kHugePage = std::size_t{2} << 20;
// Buffers from this size on get huge pages. In a smaller one, most of the page would be wasted memory.
constexpr std::size_t kHugeFrom = kHugePage / 4;
}  // namespace

AlignedBuffer::AlignedBuffer(std::size_t count) : count_(count) {
  if (count == 0) return;
  if (count > (std::size_t{1} << 40)) throw std::bad_alloc();
  const std::size_t bytes = count * sizeof(float);
  const bool huge = bytes >= kHugeFrom;
  // The mapping is one huge page longer, so that it holds an aligned start.
  mapped_ = huge ? (bytes + kHugePage - 1) / kHugePage * kHugePage + kHugePage : (bytes + 4095) / 4096 * 4096;
  void* pages = mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (pages == MAP_FAILED) {
    mapped_ = 0;
    throw std::bad_alloc();
  }
  pages_ = pages;
  char* start = static_cast<char*>(pages);
  if (huge) {
    start += (kHugePage - reinterpret_cast<std::uintptr_t>(start) % kHugePage) % kHugePage;
#ifdef MADV_HUGEPAGE
    madvise(start, (bytes + kHugePage - 1) / kHugePage * kHugePage, MADV_HUGEPAGE);
#endif
  }
  data_ = reinterpret_cast<float*>(start);
}

AlignedBuffer::~AlignedBuffer() {
  if (pages_ != nullptr) munmap(pages_, mapped_);
}

AlignedBuffer::AlignedBuffer(AlignedBuffer&& other) noexcept { *this = std::move(other); }

AlignedBuffer& AlignedBuffer::operator=(AlignedBuffer&& other) noexcept {
  std::swap(pages_, other.pages_);
  std::swap(data_, other.data_);
  std::swap(count_, other.count_);
  std::swap(mapped_, other.mapped_);
  return *this;
}

void AlignedBuffer::zero() {
  if (data_ != nullptr) std::memset(data_, 0, count_ * sizeof(float));
}

}  // namespace fcntag
