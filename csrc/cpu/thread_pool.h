// A fixed set of threads that share the tasks of one loop at a time. The caller works, too.
//
// Tasks are handed out one by one from an atomic counter. The caller waits only for workers that have begun a task: a
// worker that the system has not scheduled (another process has its core) delays nobody.
//
// Threads do not survive fork(). The child of a fork starts threads of its own at its first loop, as many as were asked
// for, and lets go of the parent's without a join.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

namespace fcntag {

class ThreadPool {
 public:
  // threads >= 1, the caller included. Throws std::invalid_argument where the system does not start so many.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return threads_; }

  // Calls task(i, worker) for i in [0, count), with worker in [0, threads()). Only one loop may run at a time, and a
  // task may not start another. The first exception that a task throws is thrown here after the loop has ended.
  void run(int64_t count, const std::function<void(int64_t, int)>& task);

 private:
  class Team;  // the threads of one process, and what they share

  void let_go_if_forked();

  int threads_;
  std::unique_ptr<Team> team_;  // null: one thread, the caller's; or a child that has run no loop yet
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
