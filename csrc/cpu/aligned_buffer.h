// A zeroed array on pages of its own. Its rows can be aligned to 64 bytes, and pages that nobody touches cost no
// memory.
#pragma once

#include <cstddef>

namespace fcntag {

class AlignedBuffer {
 public:
  AlignedBuffer() = default;
  explicit AlignedBuffer(std::size_t count);  // floats; throws std::bad_alloc
  ~AlignedBuffer();
  AlignedBuffer(AlignedBuffer&& other) noexcept;
  AlignedBuffer& operator=(AlignedBuffer&& other) noexcept;
  AlignedBuffer(const AlignedBuffer&) = delete;
  AlignedBuffer& operator=(const AlignedBuffer&) = delete;

  float* data() { return data_; }
  const float* data() const { return data_; }
  std::size_t size() const { return count_; }
  std::size_t bytes() const { return count_ * sizeof(float); }
  void zero();

 private:
  void* pages_ = nullptr;   // start of the mapping
  float* data_ = nullptr;   // start of the array: the mapping's first page, or its first huge page
  std::size_t count_ = 0;   // floats
  std::size_t mapped_ = 0;  // bytes
};

}  // namespace fcntag
