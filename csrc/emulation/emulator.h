// Runs CUDA-style kernels as plain C++ on any machine, to find index errors, missing barriers and out-of-bounds
// accesses without a GPU. The folder include/ has those headers once more that kernels see of CUDA; it comes before
// csrc on the include path.
//
// Threads of a block are fibers on one OS thread; blocks run one after the other, in an order that the seed decides.
// A warp collective waits for all 32 lanes, a barrier for all threads of the block. The emulator always reports: a
// divergent or incomplete collective, a barrier that not all threads reach, or at different lines, a deadlock, a
// shared-memory address out of range or misaligned (copies and matrix loads), writes just before or behind shared
// memory, a copy still in flight when its thread ends, a prefetch of what is no device memory, a kernel that never
// waits for its predecessors. Shared memory is poisoned with NaN before every block, and the target of an asynchronous
// copy from its issue to the wait that demands it, which is when the copy lands.
//
// Under AddressSanitizer (EMULATOR_ASAN) every access through a pointer is checked as well. Under ThreadSanitizer
// (EMULATOR_TSAN; the files of this folder but runtime.cpp are then compiled without instrumentation) every thread of
// two blocks or kernels at a time is a thread, and barriers, collectives, copies and launches order only what they
// order on a GPU: races are found even where every order that the emulator tries gives the right result.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

#include <vector_types.h>

namespace fcntag {
namespace emulator {

// Shared addresses do not start at 0 on a GPU either: an offset taken for an address is out of range.
constexpr uint32_t kSharedBase = 1024;

// The CUDA thread that runs now.
struct Thread {
  uint3 thread_index, block_index;
  dim3 block_size, grid_size;
  uint8_t* shared;  // the block's dynamic shared memory, 1024-byte aligned
  std::size_t shared_bytes;
  int lane;
};
Thread& current() __attribute__((const));  // a call of a kernel stays on its thread: one look-up per function will do

struct Options {
  unsigned seed = 0;          // 0: everything in order; else blocks, warps and lanes in random order, with pre-emption
  bool eager_copies = false;  // asynchronous copies land when issued, the earliest that is legal
  bool bulk_copies = false;   // kernels may use them: compute capability 9.0
};
Options& options();

struct Statistics {
  uint64_t launches = 0, blocks = 0, collectives = 0, mma = 0, barriers = 0, matrix_phases = 0, matrix_conflicts = 0,
           prefetches = 0;
};
// Sums over all launches since the last reset. matrix_conflicts: 8-row phases of a matrix load whose rows share banks.
Statistics& statistics();

// Runs `kernel` once per thread. A mistake of the kernel is printed to stderr ("emulator: ...", with block and thread)
// and aborts the process, because a kernel that is wrong has no result.
void launch(dim3 grid, unsigned threads, std::size_t shared_bytes, const std::function<void()>& kernel);
// The same as one launch of a stream with programmatic dependent launch. To ThreadSanitizer, the part of the kernel
// before wait_for_predecessors() runs beside the kernels before it, and the host may read its results after
// synchronize().
void launch_overlapping(dim3 grid, unsigned threads, std::size_t shared_bytes, const std::function<void()>& kernel);
void synchronize();

// Whether `p` is device memory. The runtime sets it; while it is null, prefetch() takes any address.
extern bool (*is_device_memory)(const void* p);

// Prints "emulator: ...", with block and thread in a kernel, and aborts.
[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));

enum class Operand { kBfloat16, kFloat16, kTf32 };

// The headers in include/cuda/device call these in place of instructions. `site` is the source line of the call.
void wait_for_predecessors();
void prefetch(const void* p);
void barrier(int site);
void sync_warp(int site);
// Every lane gives `bytes` (at most 8) at `in` and takes lane `from`'s into `out`.
void shuffle(void* out, const void* in, std::size_t bytes, int from, int site);
// 16 bytes each; zeros if not valid.
void copy_async(uint32_t target, const void* source, bool valid);
void copy_commit();
void copy_wait(int pending);
// Copies of any multiple of 16 bytes, and barriers of 8 bytes in shared memory, at which one thread arrives a phase.
bool has_bulk_copies();
void bulk_barrier(uint32_t barrier);
void bulk_expect(uint32_t barrier, uint32_t bytes);
void bulk_copy(uint32_t target, const void* source, uint32_t bytes, uint32_t barrier);
void bulk_wait(uint32_t barrier, uint32_t parity);
void load_matrix(uint32_t (&r)[4], uint32_t row, int site);
// m16n8k16, or m16n8k8 for tf32 (whose low 13 bits are dropped). The sum of the products and c is cut off to float32,
// towards zero, as tensor cores do (and not rounded): over many steps it is the larger error of the two.
void mma(Operand kind, float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, int site);

uint16_t to_bfloat16(float x);  // to nearest even; NaN stays NaN
uint16_t to_float16(float x);
float from_float16(uint16_t x);

}  // namespace emulator
}  // namespace fcntag

#define threadIdx (::fcntag::emulator::current().thread_index)
#define blockIdx (::fcntag::emulator::current().block_index)
#define blockDim (::fcntag::emulator::current().block_size)
#define gridDim (::fcntag::emulator::current().grid_size)
