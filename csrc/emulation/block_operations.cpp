// Operations of a block: its shared memory, the copies into it, its barrier, its wait for the kernels before it, and
// its prefetches.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>

#include "emulation/machine.h"

namespace fcntag {
namespace emulator {

void SharedMemory::release() {
  Unseen unseen;
  if (storage_ != nullptr) allow(storage_, capacity_);
  std::free(storage_);
}

void SharedMemory::poison() {
  Unseen unseen;
  std::memset(data(), kPoison, bytes_);
}

void SharedMemory::resize(std::size_t bytes) {
  Unseen unseen;
  const std::size_t need = (bytes + 2 * kZone + kAlignment - 1) / kAlignment * kAlignment;
  if (need > capacity_) {
    release();
    capacity_ = need;
    storage_ = static_cast<uint8_t*>(std::aligned_alloc(kAlignment, need));
    if (storage_ == nullptr) throw std::bad_alloc();
  }
  bytes_ = bytes;
  allow(storage_, capacity_);
  std::memset(storage_, kCanary, capacity_);
  forbid(storage_, kZone);
  forbid(data() + bytes_, capacity_ - kZone - bytes_);
}

bool SharedMemory::zones_intact() const {
  if (kAddressSanitizer) return true;
  const auto intact = [](const uint8_t* begin, const uint8_t* end) {
    return std::all_of(begin, end, [](uint8_t byte) { return byte == kCanary; });
  };
  return intact(storage_, data()) && intact(data() + bytes_, data() + bytes_ + kZone);
}

uint8_t* shared_pointer(uint32_t address, std::size_t bytes, std::size_t alignment) {
  const Lane& me = *running_lane;
  if (address < kSharedBase || address - kSharedBase + bytes > me.shared_bytes) {
    fail("shared address %u + %zu out of range: there are %zu bytes from %u on", address, bytes, me.shared_bytes,
         kSharedBase);
  }
  if (address % alignment != 0) fail("shared address %u is not a multiple of %zu", address, alignment);
  return me.shared + (address - kSharedBase);
}

void barrier(int site) {
  Launch& launch = *running_launch;
  Team& team = *launch.team;
  Lane& me = *running_lane;
  if (team.live != launch.threads) {
    fail("a barrier at line %d, but %u of %u threads have ended", site, launch.threads - team.live, launch.threads);
  }
  if (team.arrived == 0) {
    team.site = site;
  } else if (team.site != site) {
    fail("threads meet at two barriers, at lines %d and %d", team.site, site);
  }
  char* order = &team.barrier_order[team.generation % 2];
  give_order(order);
  if (++team.arrived < launch.threads) {
    wait_at(launch, me, Waiting::kBarrier, site);
  } else {
    team.arrived = 0;
    ++team.generation;
    ++launch.statistics.barriers;
    for (Warp& warp : team.warps) warp.ready = warp.live;
    me.warp->ready &= ~(1u << me.lane);
    maybe_yield(launch, me);
  }
  take_order(order);
}

void wait_for_predecessors() {
  Launch& launch = *running_launch;
  launch.waited = true;
  take_order(&finished_order[1 - launch.parity]);
}

bool (*is_device_memory)(const void* p) = nullptr;

void prefetch(const void* p) {
  if (is_device_memory != nullptr && !is_device_memory(p)) fail("a prefetch of an address that is no device memory");
  ++running_launch->statistics.prefetches;
}

// A copy may land at any time between its issue and its wait: ThreadSanitizer is told of both ends. In between, nobody
// may read the target: there is poison in it.
void copy_async(uint32_t target, const void* source, bool valid) {
  const bool eager = running_launch->options.eager_copies;
  Lane& me = *running_lane;
  Copy copy = {shared_pointer(target, kCopyBytes, kCopyBytes), valid ? source : nullptr, {}, me.group};
  if (valid) {
    if (reinterpret_cast<uintptr_t>(source) % kCopyBytes != 0) fail("an asynchronous copy from a misaligned address");
    note_read(source, kCopyBytes);
    std::memcpy(copy.data, source, kCopyBytes);
  }
  note_write(copy.target, kCopyBytes);
  if (eager) {
    std::memcpy(copy.target, copy.data, kCopyBytes);
  } else {
    std::memset(copy.target, kPoison, kCopyBytes);
  }
  me.copies.push_back(copy);
}

void copy_commit() {
  ++running_lane->group;
  maybe_yield(*running_launch, *running_lane);
}

void copy_wait(int pending) {
  const bool eager = running_launch->options.eager_copies;
  Lane& me = *running_lane;
  std::size_t done = 0;
  for (; done < me.copies.size() && me.copies[done].group + static_cast<uint64_t>(pending) < me.group; ++done) {
    const Copy& copy = me.copies[done];
    if (copy.source != nullptr) note_read(copy.source, kCopyBytes);
    note_write(copy.target, kCopyBytes);
    if (!eager) std::memcpy(copy.target, copy.data, kCopyBytes);
  }
  me.copies.erase(me.copies.begin(), me.copies.begin() + static_cast<std::ptrdiff_t>(done));
  maybe_yield(*running_launch, me);
}

namespace {

BulkBarrier& bulk_barrier_at(uint32_t address) {
  Team& team = *running_launch->team;
  for (unsigned i = 0; i < team.n_bulk_barriers; ++i) {
    if (team.bulk_barriers[i].address == address) return team.bulk_barriers[i];
  }
  fail("no bulk barrier has been made at shared address %u", address);
}

}  // namespace

bool has_bulk_copies() { return running_launch->options.bulk_copies; }

void bulk_barrier(uint32_t address) {
  Team& team = *running_launch->team;
  shared_pointer(address, 8, 8);
  for (unsigned i = 0; i < team.n_bulk_barriers; ++i) {
    if (team.bulk_barriers[i].address == address) fail("a second bulk barrier at shared address %u", address);
  }
  if (team.n_bulk_barriers == sizeof(team.bulk_barriers) / sizeof(BulkBarrier)) fail("too many bulk barriers");
  BulkBarrier& barrier = team.bulk_barriers[team.n_bulk_barriers++];
  barrier = BulkBarrier();
  barrier.address = address;
}

void bulk_expect(uint32_t address, uint32_t bytes) {
  BulkBarrier& barrier = bulk_barrier_at(address);
  if (barrier.begun != barrier.over) fail("a bulk barrier expects bytes while its last phase is not over");
  ++barrier.begun;
  barrier.missing = bytes;
}

// As an asynchronous copy of one thread, but that any thread's wait lands it.
void bulk_copy(uint32_t target, const void* source, uint32_t bytes, uint32_t address) {
  BulkBarrier& barrier = bulk_barrier_at(address);
  if (bytes % 16 != 0 || bytes > barrier.missing || barrier.begun == barrier.over) {
    fail("a bulk copy of %u bytes, of which its barrier expects %zu", bytes, barrier.missing);
  }
  if (reinterpret_cast<uintptr_t>(source) % 16 != 0) fail("a bulk copy from a misaligned address");
  if (barrier.n_copies == BulkBarrier::kCopies) fail("too many bulk copies in one phase");
  barrier.missing -= bytes;
  const BulkCopy copy = {shared_pointer(target, bytes, 16), static_cast<const uint8_t*>(source), bytes};
  note_read(copy.source, bytes);
  note_write(copy.target, bytes);
  const Unseen unseen;
  if (running_launch->options.eager_copies) {
    std::memcpy(copy.target, copy.source, bytes);
  } else {
    std::memset(copy.target, kPoison, bytes);
  }
  barrier.copies[barrier.n_copies++] = copy;
}

void bulk_wait(uint32_t address, uint32_t parity) {
  BulkBarrier& barrier = bulk_barrier_at(address);
  if ((barrier.over & 1) == parity) {  // the phase of this parity is not over
    if (barrier.begun == barrier.over) fail("a wait for a bulk copy that nobody has issued");
    if (barrier.missing != 0) fail("a wait for bulk copies of which %zu bytes are missing", barrier.missing);
    for (unsigned i = 0; i < barrier.n_copies; ++i) {
      const BulkCopy& copy = barrier.copies[i];
      note_read(copy.source, copy.bytes);
      note_write(copy.target, copy.bytes);
      const Unseen unseen;
      if (!running_launch->options.eager_copies) std::memcpy(copy.target, copy.source, copy.bytes);
    }
    barrier.n_copies = 0;
    ++barrier.over;
    give_order(&barrier.order);
  }
  take_order(&barrier.order);
  maybe_yield(*running_launch, *running_lane);
}

}  // namespace emulator
}  // namespace fcntag
