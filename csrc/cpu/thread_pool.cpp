#include "cpu/thread_pool.h"

#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#include "check.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif
#if defined(__linux__)
#include <sched.h>
#include <sys/syscall.h>
#endif
#if defined(__unix__) || defined(__APPLE__)
#include <unistd.h>
#endif

namespace fcntag {
namespace {

// A worker looks so often for the next loop before it sleeps: some 200 microseconds. Fewer, and it would sleep in the
// gap between two layers or two calls, and waking it costs 50 microseconds. More would burn a core between two clips.
constexpr int kSpins = 10000;

inline void pause_cpu() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Linux likes to wake a thread on the core of the thread that wakes it. Here the waking thread goes on computing. The
// two would share the core until the next load balancing, some milliseconds later, which is as long as a whole network
// takes. A sleeping worker is therefore forbidden its caller's core while it is woken. The worker allows it again, so
// that nothing stays pinned.
#if defined(__linux__)
int current_cpu() { return sched_getcpu(); }
int thread_id() { return static_cast<int>(syscall(SYS_gettid)); }
using CpuSet = cpu_set_t;

// Returns whether thread `id` is kept off `cpu` now. `allowed` then has the CPUs that it could use before.
bool forbid_cpu(int id, int cpu, CpuSet& allowed) {
  if (cpu < 0 || cpu >= CPU_SETSIZE || sched_getaffinity(id, sizeof allowed, &allowed) != 0) return false;
  CpuSet others = allowed;
  CPU_CLR(cpu, &others);
  return CPU_COUNT(&others) > 0 && CPU_COUNT(&others) < CPU_COUNT(&allowed) &&
         sched_setaffinity(id, sizeof others, &others) == 0;
}
void allow_cpus(const CpuSet& allowed) { sched_setaffinity(0, sizeof allowed, &allowed); }
#else
int current_cpu() { return -1; }
int thread_id() { return 0; }
struct CpuSet {};
bool forbid_cpu(int, int, CpuSet&) { return false; }
void allow_cpus(const CpuSet&) {}
#endif

#if defined(__unix__) || defined(__APPLE__)
int process_id() { return static_cast<int>(getpid()); }
#else
int process_id() { return 0; }
#endif

}  // namespace

class ThreadPool::Team {
 public:
  explicit Team(int threads);
  ~Team() { stop(); }
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

  // The threads are this process's, and not those of a parent that forked it.
  bool here() const { return process_id() == process_; }
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
  void stop();

  std::vector<std::thread> workers_;
  int process_;                    // id of the process that made the threads
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

ThreadPool::Team::Team(int threads) : process_(process_id()), sleepers_(threads) {
  try {
    for (int i = 1; i < threads; ++i) workers_.emplace_back([this, i] { work(i); });
  } catch (const std::system_error& error) {
    const std::size_t started = workers_.size() + 1;
    stop();
    fail("threads=", threads, ": the system starts only ", started, " (", error.code().message(), ")");
  }
}

void ThreadPool::Team::stop() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
    generation_.fetch_add(1, std::memory_order_release);
  }
  wake_.notify_all();
  for (std::thread& worker : workers_) worker.join();
  workers_.clear();
}

void ThreadPool::Team::drain(int worker) {
  for (int64_t i; (i = next_.fetch_add(1, std::memory_order_relaxed)) < count_;) {
    try {
      (*task_)(i, worker);
    } catch (...) {
      std::lock_guard<std::mutex> lock(mutex_);
      if (!error_) error_ = std::current_exception();
      next_.store(count_, std::memory_order_relaxed);
    }
  }
}

void ThreadPool::Team::work(int worker) {
  FlushDenormals flush;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    sleepers_[worker].thread = thread_id();
  }
  uint64_t seen = 0;
  for (;;) {
    int spins = 0;
    while (generation_.load(std::memory_order_acquire) == seen && spins < kSpins) {
      pause_cpu();
      ++spins;
    }
    {
      std::unique_lock<std::mutex> lock(mutex_);
      Sleeper& self = sleepers_[worker];
      self.asleep = true;
      wake_.wait(lock, [&] { return generation_.load(std::memory_order_relaxed) != seen; });
      self.asleep = false;
      seen = generation_.load(std::memory_order_relaxed);
      if (self.moved) allow_cpus(self.allowed);
      self.moved = false;
      if (stop_) return;
      if (!open_) continue;  // woke after the loop had ended
      active_.fetch_add(1, std::memory_order_relaxed);
    }
    drain(worker);
    active_.fetch_sub(1, std::memory_order_release);
  }
}

void ThreadPool::Team::run(int64_t count, const std::function<void(int64_t, int)>& task) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    task_ = &task;
    count_ = count;
    const int cpu = current_cpu();
    for (Sleeper& sleeper : sleepers_) {
      if (sleeper.asleep && !sleeper.moved) sleeper.moved = forbid_cpu(sleeper.thread, cpu, sleeper.allowed);
    }
    next_.store(0, std::memory_order_relaxed);
    error_ = nullptr;
    open_ = true;
    generation_.fetch_add(1, std::memory_order_release);
  }
  wake_.notify_all();
  drain(0);
  {
    std::lock_guard<std::mutex> lock(mutex_);
    open_ = false;
  }
  for (int spins = 0; active_.load(std::memory_order_acquire) != 0; ++spins) {
    if (spins < kSpins) {
      pause_cpu();
    } else {
      std::this_thread::yield();  // the worker's core may be ours
    }
  }
  if (error_) std::rethrow_exception(error_);
}

ThreadPool::ThreadPool(int threads) : threads_(threads) {
  FCNTAG_CHECK(threads >= 1 && threads <= 1024, "threads=", threads, "; allowed: 1 to 1024");
  if (threads > 1) team_ = std::make_unique<Team>(threads);
}

ThreadPool::~ThreadPool() { let_go_if_forked(); }

// A fork copies the team as it was at that moment: its mutex may be locked by a thread that the child does not have,
// and a join of such a thread never ends. The copy is left as it is, and its few kilobytes with it.
void ThreadPool::let_go_if_forked() {
  if (team_ != nullptr && !team_->here()) (void)team_.release();
}

void ThreadPool::run(int64_t count, const std::function<void(int64_t, int)>& task) {
  FlushDenormals flush;
  if (threads_ == 1 || count <= 1) {
    for (int64_t i = 0; i < count; ++i) task(i, 0);
    return;
  }
  let_go_if_forked();
  if (team_ == nullptr) team_ = std::make_unique<Team>(threads_);
  team_->run(count, task);
}

namespace {

#if defined(__x86_64__)
constexpr uint64_t kFlushBits = 0x8040;  // flush to zero, denormals are zero
uint64_t control() { return _mm_getcsr(); }
void set_control(uint64_t value) { _mm_setcsr(static_cast<unsigned>(value)); }
#elif defined(__aarch64__)
constexpr uint64_t kFlushBits = uint64_t{1} << 24;
uint64_t control() {
  uint64_t value;
  asm volatile("mrs %0, fpcr" : "=r"(value));
  return value;
}
void set_control(uint64_t value) { asm volatile("msr fpcr, %0" : : "r"(value)); }
#else
constexpr uint64_t kFlushBits = 0;
uint64_t control() { return 0; }
void set_control(uint64_t) {}
#endif

}  // namespace

FlushDenormals::FlushDenormals() : saved_(control()) { set_control(saved_ | kFlushBits); }

FlushDenormals::~FlushDenormals() { set_control(saved_); }

bool set_flush_denormals(bool flush) {
  const uint64_t before = control();
  set_control(flush ? before | kFlushBits : before & ~kFlushBits);
  return (before & kFlushBits) != 0;
}

}  // namespace fcntag
