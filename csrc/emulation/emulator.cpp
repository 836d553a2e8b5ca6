#include "emulation/emulator.h"

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <numeric>
#include <vector>

#include "emulation/machine.h"

namespace fcntag {
namespace emulator {
namespace {

constexpr unsigned kMaxThreads = 1024;

thread_local Machine machine_of_thread;
std::mutex statistics_mutex;

// ---- who runs next ----

// xorshift64*: the same on every platform, which the standard library's shuffles are not.
uint32_t random_number(Launch& launch) {
  launch.random ^= launch.random >> 12;
  launch.random ^= launch.random << 25;
  launch.random ^= launch.random >> 27;
  return static_cast<uint32_t>(launch.random * 0x2545f4914f6cdd1dull >> 32);
}

bool one_in(Launch& launch, uint32_t n) { return launch.options.seed != 0 && random_number(launch) % n == 0; }

// Takes a ready lane of the warp: the next one in turn, or any.
Lane& take_lane(Launch& launch, Warp& warp) {
  const unsigned first = (launch.options.seed != 0 ? random_number(launch) : warp.last + 1) % kWarpLanes;
  const uint32_t after = warp.ready & ~((1u << first) - 1);
  const unsigned lane = static_cast<unsigned>(__builtin_ctz(after != 0 ? after : warp.ready));
  warp.ready &= ~(1u << lane);
  warp.last = lane;
  const std::size_t index = static_cast<std::size_t>(&warp - launch.team->warps.data());
  return launch.team->lanes[index * kWarpLanes + lane];
}

// Another lane of the same warp if there is one: it saves a switch. Else, or now and then, the host: it takes any warp.
Fiber& successor(Launch& launch, Warp& warp) {
  if (warp.ready != 0 && !one_in(launch, 8)) {
    running_lane = &take_lane(launch, warp);
    return running_lane->fiber;
  }
  running_lane = nullptr;
  return launch.host;
}

Warp* ready_warp(Launch& launch) {
  std::vector<Warp>& warps = launch.team->warps;
  const std::size_t first = launch.options.seed != 0 ? random_number(launch) % warps.size() : 0;
  for (std::size_t i = 0; i < warps.size(); ++i) {
    Warp& warp = warps[(first + i) % warps.size()];
    if (warp.ready != 0) return &warp;
  }
  return nullptr;
}

[[noreturn]] void report_deadlock(const Launch& launch) {
  int count[2] = {}, site[2] = {};
  for (unsigned t = 0; t < launch.threads; ++t) {
    const Lane& lane = launch.team->lanes[t];
    if (lane.waiting == Waiting::kNowhere) continue;
    const int kind = lane.waiting == Waiting::kBarrier;
    if (count[kind]++ == 0) site[kind] = lane.site;
  }
  const uint3& block = launch.team->lanes[0].block_index;
  fail("deadlock in block %u,%u,%u: %d threads wait in a warp collective (line %d), %d at a barrier (line %d)", block.x,
       block.y, block.z, count[0], site[0], count[1], site[1]);
}

// ---- a thread, a block ----

void run_thread() {
  enter_fiber();
  Launch& launch = *running_launch;
  Team& team = *launch.team;
  Lane& me = *running_lane;
  take_order(&launch.machine->launch_order);
  take_order(&team.end_order[1 - team.blocks % 2]);  // of the block that had this memory before

  (*launch.kernel)();

  if (!me.copies.empty()) fail("a thread ended with %zu asynchronous copies in flight", me.copies.size());
  if (me.warp->arrived != 0) fail("a thread ended while its warp waits in a collective at line %d", me.warp->site);
  if (team.arrived != 0) fail("a thread ended while others wait at the barrier at line %d", team.site);
  give_order(&team.end_order[team.blocks % 2]);
  give_order(&finished_order[launch.parity]);
  me.warp->live &= ~(1u << me.lane);
  --team.live;
  if (team.live == 0) {
    for (unsigned i = 0; i < team.n_bulk_barriers; ++i) {
      const BulkBarrier& barrier = team.bulk_barriers[i];
      if (barrier.over != barrier.begun) fail("a block ended with a bulk copy in flight");
    }
    team.n_bulk_barriers = 0;
  }
  leave_fiber(me.fiber, successor(launch, *me.warp));
}

void prepare_block(Launch& launch, const uint3& block) {
  Team& team = *launch.team;
  ++team.blocks;
  team.shared.poison();
  team.live = launch.threads;
  team.arrived = 0;
  for (unsigned w = 0; w < team.warps.size(); ++w) {
    const unsigned lanes = std::min(kWarpLanes, launch.threads - w * kWarpLanes);
    Warp& warp = team.warps[w];
    warp.live = warp.ready = kAllLanes >> (kWarpLanes - lanes);
    warp.arrived = 0;
    warp.last = kWarpLanes - 1;
  }
  for (unsigned t = 0; t < launch.threads; ++t) {
    Lane& lane = team.lanes[t];
    lane.thread_index = {t, 0, 0};
    lane.block_index = block;
    lane.block_size = dim3(launch.threads);
    lane.grid_size = launch.grid;
    lane.shared = team.shared.data();
    lane.shared_bytes = launch.shared_bytes;
    lane.lane = static_cast<int>(t % kWarpLanes);
    lane.warp = &team.warps[t / kWarpLanes];
    lane.group = 0;
    prepare_fiber(lane.fiber, run_thread, t);
  }
}

void run_block(Launch& launch) {
  while (launch.team->live > 0) {
    Warp* warp = ready_warp(launch);
    if (warp == nullptr) report_deadlock(launch);
    Lane& lane = take_lane(launch, *warp);
    running_lane = &lane;
    switch_fiber(launch.host, lane.fiber);
  }
  if (!launch.team->shared.zones_intact()) {
    const uint3& block = launch.team->lanes[0].block_index;
    fail("block %u,%u,%u wrote outside of its %zu bytes of shared memory", block.x, block.y, block.z,
         launch.shared_bytes);
  }
  ++launch.statistics.blocks;
}

void prepare_team(Launch& launch, Team& team) {
  team.shared.resize(launch.shared_bytes);
  team.stacks.reserve(launch.threads);
  team.lanes.reserve(kMaxThreads);  // they must not move: threads that ThreadSanitizer thinks unfinished have read them
  const std::size_t lanes_before = team.lanes.size();
  if (launch.threads > lanes_before) team.lanes.resize(launch.threads);
  for (std::size_t i = 0; i < team.lanes.size(); ++i) {
    if (i >= lanes_before) begin_fiber(team.lanes[i].fiber);
    if (i < launch.threads) team.stacks.assign(team.lanes[i].fiber, i);
  }
  team.warps.resize((launch.threads + kWarpLanes - 1) / kWarpLanes);
}

void run_grid(Launch& launch) {
  const uint64_t blocks = static_cast<uint64_t>(launch.grid.x) * launch.grid.y * launch.grid.z;
  std::vector<uint64_t> order(blocks);
  std::iota(order.begin(), order.end(), uint64_t{0});
  if (launch.options.seed != 0) {
    for (uint64_t i = blocks; i > 1; --i) std::swap(order[i - 1], order[random_number(launch) % i]);
  }
  for (const uint64_t index : order) {
    launch.team = &launch.machine->teams[launch.machine->blocks++ % kTeams];
    prepare_block(launch, {static_cast<unsigned>(index % launch.grid.x),
                           static_cast<unsigned>(index / launch.grid.x % launch.grid.y),
                           static_cast<unsigned>(index / launch.grid.x / launch.grid.y)});
    run_block(launch);
  }
}

// `must_wait`: the kernel has predecessors that it may overtake.
void run(dim3 grid, unsigned threads, std::size_t shared_bytes, const std::function<void()>& kernel, bool must_wait) {
  if (running_launch != nullptr) fail("a launch from within a kernel");
  if (threads == 0 || threads > kMaxThreads) fail("a launch of %u threads; allowed: 1 to %u", threads, kMaxThreads);
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) fail("a launch of %u x %u x %u blocks", grid.x, grid.y, grid.z);

  Machine& machine = machine_of_thread;
  Launch launch;
  launch.grid = grid;
  launch.threads = threads;
  launch.shared_bytes = shared_bytes;
  launch.kernel = &kernel;
  if (kThreadSanitizer) {  // the caller may destroy its own at once
    machine.unfinished.push_back(kernel);
    launch.kernel = &machine.unfinished.back();
  }
  launch.options = options();
  launch.random = launch.options.seed * 0x9e3779b97f4a7c15ull;  // not 0 for any seed but 0, which uses no number
  launch.parity = machine.launches++ % 2;
  launch.machine = &machine;
  adopt_os_thread(launch.host);
  for (Team& team : machine.teams) prepare_team(launch, team);

  give_order(&machine.launch_order);
  running_launch = &launch;
  run_grid(launch);
  running_launch = nullptr;
  if (must_wait && !launch.waited) fail("a kernel ended and none of its threads had waited for its predecessors");

  const std::lock_guard<std::mutex> lock(statistics_mutex);
  Statistics& sum = statistics();
  ++sum.launches;
  sum.blocks += launch.statistics.blocks;
  sum.collectives += launch.statistics.collectives;
  sum.mma += launch.statistics.mma;
  sum.barriers += launch.statistics.barriers;
  sum.matrix_phases += launch.statistics.matrix_phases;
  sum.matrix_conflicts += launch.statistics.matrix_conflicts;
  sum.prefetches += launch.statistics.prefetches;
}

}  // namespace

__thread Launch* running_launch = nullptr;
__thread Lane* running_lane = nullptr;
char finished_order[2];

void wait_at(Launch& launch, Lane& me, Waiting waiting, int site) {
  me.waiting = waiting;
  me.site = site;
  switch_fiber(me.fiber, successor(launch, *me.warp));
  me.waiting = Waiting::kNowhere;
}

void maybe_yield(Launch& launch, Lane& me) {
  if (!one_in(launch, 8)) return;
  me.warp->ready |= 1u << me.lane;
  running_lane = nullptr;
  switch_fiber(me.fiber, launch.host);
}

Team::~Team() {
  for (Lane& lane : lanes) end_fiber(lane.fiber);
}

Thread& current() {
  if (running_lane == nullptr) fail("threadIdx and its like outside of a kernel");
  return *running_lane;
}

Options& options() {
  static Options instance;
  return instance;
}

Statistics& statistics() {
  static Statistics instance;
  return instance;
}

void fail(const char* format, ...) {
  std::fprintf(stderr, "emulator: ");
  va_list arguments;
  va_start(arguments, format);
  std::vfprintf(stderr, format, arguments);
  va_end(arguments);
  if (running_lane != nullptr) {
    const uint3& block = running_lane->block_index;
    std::fprintf(stderr, " (block %u,%u,%u thread %u)", block.x, block.y, block.z, running_lane->thread_index.x);
  }
  std::fprintf(stderr, "\n");
  std::abort();
}

void synchronize() {
  take_order(&finished_order[0]);
  take_order(&finished_order[1]);
  machine_of_thread.unfinished.clear();
}

void launch(dim3 grid, unsigned threads, std::size_t shared_bytes, const std::function<void()>& kernel) {
  synchronize();
  run(grid, threads, shared_bytes, kernel, false);
  synchronize();
}

void launch_overlapping(dim3 grid, unsigned threads, std::size_t shared_bytes, const std::function<void()>& kernel) {
  run(grid, threads, shared_bytes, kernel, true);
}

}  // namespace emulator
}  // namespace fcntag
