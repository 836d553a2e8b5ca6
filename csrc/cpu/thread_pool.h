// A fixed set of threads that share the tasks of one loop at a time. The caller works, too.
//
// Tasks are handed out one by one from an atomic counter. The caller waits only for workers that have begun a task: a
// worker that the system has not scheduled (another process has its core, or a fork left it behind) delays nobody.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <sched.h>
#endif

namespace fcntag {

#if defined(__linux__)
using CpuSet = cpu_set_t;
#else
struct CpuSet {};
#endif

class ThreadPool {
 public:
  explicit ThreadPool(int threads);  // >= 1, the caller included
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  // Calls task(i, worker) for i in [0, count), with worker in [0, threads()). Only one loop may run at a time, and a
  // task may not start another. The first exception that a task throws is thrown here after the loop has ended.
  void run(int64_t count, const std::function<void(int64_t, int)>& task);

 private:
  struct Sleeper {
    int thread = 0;
    bool asleep = false;
    bool moved = false;  // woken away from the caller's core; the worker has to restore `allowed`
    CpuSet allowed{};
  };

  void work(int worker);
  void drain(int worker);

  std::vector<std::thread> workers_;
  int process_ = 0;                // id of the process that made the threads
  std::vector<Sleeper> sleepers_;  // one a worker (the caller's is unused); guarded by mutex_
  std::mutex mutex_;
  std::condition_variable wake_;
  std::atomic<uint64_t> generation_{0};  // raised when a loop opens
  std::atomic<int> active_{0};           // workers inside the open loop
  std::atomic<int64_t> next_{0};
  int64_t count_ = 0;
  const std::function<void(int64_t, int)>* task_ = nullptr;
  bool open_ = false;  // guarded by mutex_, as are task_ and count_ for a worker that joins
  bool stop_ = false;
  std::exception_ptr error_;
};

// Flushes denormals to zero while it lives, on the thread that made it. Silence and dead channels would otherwise cost
// a hundred cycles an operation.
class FlushDenormals {
 public:
  FlushDenormals();
  ~FlushDenormals();

 private:
  uint64_t saved_;
};

// Sets the same mode for the calling thread, until it is set again, and returns the mode before. Other runtimes set it
// and leave it so; this undoes that.
bool set_flush_denormals(bool flush);

}  // namespace fcntag
