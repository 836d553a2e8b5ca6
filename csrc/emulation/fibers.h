// Call stacks that run until they hand over. The emulator makes CUDA threads of them.
#pragma once

#include <cstddef>

#include "emulation/sanitizers.h"

#if !defined(EMULATOR_UCONTEXT) && !(defined(__ELF__) && (defined(__x86_64__) || defined(__aarch64__)))
#define EMULATOR_UCONTEXT  // ten times slower: it saves the signal mask with two system calls per switch
#endif
#if defined(EMULATOR_UCONTEXT)
#include <ucontext.h>
#endif

namespace fcntag {
namespace emulator {

struct Fiber {
  char* stack = nullptr;  // lowest address; null for the OS thread's own
  std::size_t stack_bytes = 0;
  void* stack_pointer = nullptr;  // while it does not run
#if defined(EMULATOR_UCONTEXT)
  ucontext_t context;
#endif
#if defined(EMULATOR_ASAN)
  void* fake_stack = nullptr;
#endif
#if defined(EMULATOR_TSAN)
  void* thread = nullptr;  // ThreadSanitizer's idea of it
#endif
};

// Stacks of one size, each with a page below it that faults. They are kept: mapping them anew costs more than a launch.
class StackPool {
 public:
  StackPool() = default;
  ~StackPool();
  StackPool(const StackPool&) = delete;
  StackPool& operator=(const StackPool&) = delete;
  void reserve(std::size_t count);  // moves all stacks; throws std::bad_alloc
  void assign(Fiber& fiber, std::size_t index) const;

 private:
  char* base_ = nullptr;
  std::size_t count_ = 0;
};

void adopt_os_thread(Fiber& fiber);  // the caller's own stack, to switch away from and back to
void begin_fiber(Fiber& fiber);      // before its first prepare_fiber; end_fiber when it is no longer needed
void end_fiber(Fiber& fiber);

// The next switch to `fiber` calls `entry`, which calls enter_fiber() first, may not return, and leaves by
// leave_fiber(). `index` staggers the stacks: with equal offsets in all of them, locals would share a few sets of the
// cache.
void prepare_fiber(Fiber& fiber, void (*entry)(), std::size_t index);
void enter_fiber();
void switch_fiber(Fiber& from, Fiber& to);
[[noreturn]] void leave_fiber(Fiber& from, Fiber& to);

}  // namespace emulator
}  // namespace fcntag
