// The inside of the emulator, for the files of this folder: threads, the memory they run on, and how operations make
// them wait.
//
// An operation in which threads meet notes in Warp or Team which have arrived. All but the last call wait_at(); the
// last sets the `ready` bits of those that may go on.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <vector>

#include "emulation/emulator.h"
#include "emulation/fibers.h"
#include "emulation/sanitizers.h"

namespace fcntag {
namespace emulator {

constexpr unsigned kWarpLanes = 32;
constexpr uint32_t kAllLanes = 0xffffffffu;
constexpr std::size_t kCopyBytes = 16;
constexpr int kPoison = 0xff;  // NaN in every floating-point type

// Blocks of a grid are not ordered, and neither are two kernels of a stream until the second one waits. ThreadSanitizer
// would take two blocks on the same fibers for ordered, so there it gets two sets of fibers that take turns.
#if defined(EMULATOR_TSAN)
constexpr std::size_t kTeams = 2;
#else
constexpr std::size_t kTeams = 1;
#endif

struct Copy {
  uint8_t* target;
  const void* source;  // null: zeros
  uint8_t data[kCopyBytes];
  uint64_t group;
};

struct BulkCopy {
  uint8_t* target;
  const uint8_t* source;
  std::size_t bytes;
};

// A barrier in shared memory for bulk copies. Phases are counted; one is over when its bytes have landed, which a wait
// makes them do. Nothing here allocates: it runs on the threads of the kernel.
struct BulkBarrier {
  static constexpr unsigned kCopies = 8;
  uint32_t address = 0;
  unsigned begun = 0, over = 0;
  std::size_t missing = 0;  // bytes that the phase expects and that nobody has copied
  unsigned n_copies = 0;
  BulkCopy copies[kCopies];
  char order = 0;
};

// arguments[lane] is the argument of that lane. Runs once all 32 are there, on the stack of the last of them.
using Operation = void (*)(void* const* arguments);

struct Warp {
  uint32_t live = 0, ready = 0, arrived = 0;  // lanes as bits; ready: may run, does not
  unsigned last = kWarpLanes - 1;             // the lane that ran last
  int site = 0;                               // of the collective that lanes have arrived at
  Operation operation = nullptr;
  unsigned generation = 0;  // collectives so far
  void* arguments[kWarpLanes];
  char order[2];  // two, so that lanes past the next collective order nothing for lanes that leave this one
};

enum class Waiting : uint8_t { kNowhere, kCollective, kBarrier };

struct Lane : Thread {
  Fiber fiber;
  Warp* warp = nullptr;
  Waiting waiting = Waiting::kNowhere;
  int site = 0;              // where it waits
  std::vector<Copy> copies;  // in flight, oldest first
  uint64_t group = 0;        // of the copies issued next
};

// A block's dynamic shared memory, between two zones that nobody may touch.
class SharedMemory {
 public:
  SharedMemory() = default;
  ~SharedMemory() { release(); }
  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;
  void resize(std::size_t bytes);
  void poison();
  bool zones_intact() const;
  uint8_t* data() const { return storage_ + kZone; }

 private:
  static constexpr std::size_t kZone = 1024;
  static constexpr std::size_t kAlignment = 2048;  // of the storage: data() is aligned to kZone and to no more
  static constexpr int kCanary = 0xc5;
  void release();

  uint8_t* storage_ = nullptr;
  std::size_t capacity_ = 0, bytes_ = 0;
};

// Fibers and memory to run one block with.
struct Team {
  std::vector<Lane> lanes;
  std::vector<Warp> warps;
  StackPool stacks;
  SharedMemory shared;
  unsigned live = 0;
  unsigned arrived = 0;  // at the barrier
  int site = 0;          // of the barrier
  unsigned generation = 0;
  char barrier_order[2];  // as in Warp
  BulkBarrier bulk_barriers[8];
  unsigned n_bulk_barriers = 0;
  unsigned blocks = 0;  // so far
  char end_order[2];    // of the blocks with even and with odd numbers: threads start when others have ended already

  Team() = default;
  ~Team();
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;
};

// The part of the emulator that an OS thread keeps from launch to launch.
struct Machine {
  Team teams[kTeams];
  std::list<std::function<void()>> unfinished;  // kernels whose threads may still run, as the host knows it
  uint64_t launches = 0, blocks = 0;
  char launch_order;

  ~Machine() { synchronize(); }  // threads of the last launches allocated the memory that is now freed
};

struct Launch {
  dim3 grid;
  unsigned threads;
  std::size_t shared_bytes;
  const std::function<void()>* kernel;
  Options options;  // as they were when it started
  uint64_t random;
  unsigned parity;      // of its number: which half of finished_order it ends in
  bool waited = false;  // for its predecessors
  Machine* machine;
  Team* team = nullptr;
  Fiber host;
  Statistics statistics;
};

// __thread and not thread_local, which would call a function at every access from another file.
extern __thread Launch* running_launch;
extern __thread Lane* running_lane;  // null while the host runs

extern char finished_order[2];  // given by all threads that have ended, in launches with even and with odd numbers

// Runs other threads until somebody sets the caller's ready bit.
void wait_at(Launch& launch, Lane& me, Waiting waiting, int site);
// With a seed, now and then runs other threads although the caller could go on.
void maybe_yield(Launch& launch, Lane& me);

// The memory behind a shared address; fails if it is out of range or misaligned.
uint8_t* shared_pointer(uint32_t address, std::size_t bytes, std::size_t alignment);

}  // namespace emulator
}  // namespace fcntag
