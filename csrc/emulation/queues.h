// Streams that run late, for runtime.cpp: with FCNTAG_EMULATED_LATE_STREAMS=1 work waits in its stream's queue until
// somebody needs it: the host, by waiting for the stream or for an event behind the work, or another stream that waits
// for such an event. Who reads a result without having waited finds what was there before.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <utility>

namespace fcntag {
namespace cuda {

class Queues {
 public:
  struct Place {  // behind the work that a stream had at some time
    uintptr_t stream = 0;
    std::size_t position = 0;
  };

  void put(void* stream, std::function<void()> work) {
    const std::lock_guard<std::mutex> lock(mutex_);
    Queue& queue = queues_[key(stream)];
    queue.waiting.push_back(std::move(work));
    ++queue.put;
  }

  Place end(void* stream) {
    const std::lock_guard<std::mutex> lock(mutex_);
    return {key(stream), queues_[key(stream)].put};
  }

  bool done(const Place& place) {
    const std::lock_guard<std::mutex> lock(mutex_);
    return queues_[place.stream].done >= place.position;
  }

  // Runs the work before `place`, and what that waits for.
  void reach(const Place& place) {
    for (;;) {
      std::function<void()> work;
      {
        const std::lock_guard<std::mutex> lock(mutex_);
        Queue& queue = queues_[place.stream];
        if (queue.done >= place.position || queue.waiting.empty()) return;
        work = std::move(queue.waiting.front());
        queue.waiting.pop_front();
      }
      work();
      const std::lock_guard<std::mutex> lock(mutex_);
      ++queues_[place.stream].done;
    }
  }

  void reach_all() {
    std::map<uintptr_t, std::size_t> ends;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      for (const auto& [stream, queue] : queues_) ends[stream] = queue.put;
    }
    for (const auto& [stream, position] : ends) reach({stream, position});
  }

 private:
  struct Queue {
    std::deque<std::function<void()>> waiting;
    std::size_t put = 0, done = 0;  // counts
  };
  // 0 and 1 both name the legacy default stream.
  static uintptr_t key(void* stream) {
    const uintptr_t address = reinterpret_cast<uintptr_t>(stream);
    return address == 1 ? 0 : address;
  }

  std::mutex mutex_;
  std::map<uintptr_t, Queue> queues_;
};

}  // namespace cuda
}  // namespace fcntag
