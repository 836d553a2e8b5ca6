// The threads of a network and the memory that their tasks work in.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "cpu/aligned_buffer.h"
#include "cpu/thread_pool.h"

namespace fcntag {

class Workers {
 public:
  explicit Workers(std::shared_ptr<ThreadPool> pool) : pool_(std::move(pool)), scratch_(pool_->threads()) {}

  int threads() const { return pool_->threads(); }
  // Calls task(i, worker) for i in [0, count). The calling thread does loops of few multiply-adds alone.
  void loop(int64_t count, double multiply_adds, const std::function<void(int64_t, int)>& task);

  // Every worker has at least `scratch` floats from now on, and all of them share at least `shared`.
  void reserve(std::size_t scratch, std::size_t shared);
  float* scratch(int worker) { return scratch_[worker].data(); }
  float* shared() { return shared_.data(); }
  std::size_t bytes() const;

 private:
  std::shared_ptr<ThreadPool> pool_;
  std::vector<AlignedBuffer> scratch_;  // per worker
  AlignedBuffer shared_;
};

}  // namespace fcntag
