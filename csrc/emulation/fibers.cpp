#include "emulation/fibers.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <new>

#if !defined(EMULATOR_UCONTEXT)
// fcntag_switch_stack(void** save, void* to): pushes the registers that a call must preserve, stores the stack pointer
// in *save, and continues where the stack `to` left off. It returns by `ret`: lanes switch at one place mostly, so that
// the address which the CPU predicts is right although the stack is another one. A jump would spoil all returns after
// it as well.
#if defined(__x86_64__)
asm(R"(
.text
.globl fcntag_switch_stack
.hidden fcntag_switch_stack
.type fcntag_switch_stack,@function
fcntag_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size fcntag_switch_stack,.-fcntag_switch_stack
)");
#else
asm(R"(
.text
.globl fcntag_switch_stack
.hidden fcntag_switch_stack
.type fcntag_switch_stack,%function
fcntag_switch_stack:
  sub sp, sp, #160
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
.size fcntag_switch_stack,.-fcntag_switch_stack
)");
#endif
extern "C" void fcntag_switch_stack(void** save, void* to);
#endif

namespace fcntag {
namespace emulator {
namespace {

#if defined(EMULATOR_ASAN) || defined(EMULATOR_TSAN)
constexpr std::size_t kStackBytes = 256 << 10;  // a sanitizer's report runs on it
#else
constexpr std::size_t kStackBytes = 128 << 10;  // of which the pages that are touched cost memory
#endif
constexpr std::size_t kStagger = 832, kStaggerRange = 16384;
constexpr std::size_t kOuterFrames = 4096;  // more than the emulator's own functions take at the top of a stack

std::size_t guard_bytes() {
  static const std::size_t page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  return page;
}

#if defined(EMULATOR_ASAN)
thread_local Fiber* switched_from;

// On the stack that was switched to. The OS thread's bounds are learnt from the first fiber that it switches to.
void after_switch(void* fake_stack) {
  const void* bottom;
  std::size_t bytes;
  __sanitizer_finish_switch_fiber(fake_stack, &bottom, &bytes);
  switched_from->stack = static_cast<char*>(const_cast<void*>(bottom));
  switched_from->stack_bytes = bytes;
}
#endif

// `ends`: `from` will not be switched to again.
void hand_over(Fiber& from, Fiber& to, bool ends) {
#if defined(EMULATOR_ASAN)
  __sanitizer_start_switch_fiber(ends ? nullptr : &from.fake_stack, to.stack, to.stack_bytes);
  switched_from = &from;
#endif
#if defined(EMULATOR_TSAN)
  __tsan_switch_to_fiber(to.thread, 1);  // 1: a switch orders nothing
#endif
#if defined(EMULATOR_UCONTEXT)
  swapcontext(&from.context, &to.context);
#else
  fcntag_switch_stack(&from.stack_pointer, to.stack_pointer);
#endif
#if defined(EMULATOR_ASAN)
  after_switch(from.fake_stack);
#endif
  static_cast<void>(ends);
}

}  // namespace

StackPool::~StackPool() {
  if (base_ == nullptr) return;
  allow(base_, count_ * kStackBytes);  // the mapping's next owner knows nothing of its history
  munmap(base_, count_ * kStackBytes);
}

void StackPool::reserve(std::size_t count) {
  if (count <= count_) return;
  void* pages =
      mmap(nullptr, count * kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (pages == MAP_FAILED) throw std::bad_alloc();
  if (base_ != nullptr) {
    allow(base_, count_ * kStackBytes);
    munmap(base_, count_ * kStackBytes);
  }
  base_ = static_cast<char*>(pages);
  count_ = count;
  for (std::size_t i = 0; i < count; ++i) mprotect(base_ + i * kStackBytes, guard_bytes(), PROT_NONE);
}

void StackPool::assign(Fiber& fiber, std::size_t index) const {
  fiber.stack = base_ + index * kStackBytes + guard_bytes();
  fiber.stack_bytes = kStackBytes - guard_bytes();
}

void adopt_os_thread(Fiber& fiber) {
#if defined(EMULATOR_TSAN)
  fiber.thread = __tsan_get_current_fiber();
#else
  static_cast<void>(fiber);
#endif
}

void begin_fiber(Fiber& fiber) {
#if defined(EMULATOR_TSAN)
  fiber.thread = __tsan_create_fiber(0);  // half a millisecond
#else
  static_cast<void>(fiber);
#endif
}

void end_fiber(Fiber& fiber) {
#if defined(EMULATOR_TSAN)
  if (fiber.thread != nullptr) __tsan_destroy_fiber(fiber.thread);
  fiber.thread = nullptr;
#else
  static_cast<void>(fiber);
#endif
}

void prepare_fiber(Fiber& fiber, void (*entry)(), std::size_t index) {
  const std::size_t bytes = (fiber.stack_bytes - index * kStagger % kStaggerRange) & ~std::size_t{15};
  // The last use of this stack ended in leave_fiber, so that the frames of its outermost functions were never given up.
  allow(fiber.stack + bytes - kOuterFrames, kOuterFrames);
#if defined(EMULATOR_ASAN)
  fiber.fake_stack = nullptr;
#endif
#if defined(EMULATOR_UCONTEXT)
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = fiber.stack;
  fiber.context.uc_stack.ss_size = bytes;
  fiber.context.uc_link = nullptr;
  makecontext(&fiber.context, entry, 0);
#else
  void** stack_pointer = reinterpret_cast<void**>(fiber.stack + bytes);
#if defined(__x86_64__)
  *--stack_pointer = nullptr;  // where a return address would be: a call leaves the stack 8 bytes off a multiple of 16
  *--stack_pointer = reinterpret_cast<void*>(entry);
  stack_pointer -= 6;
  std::memset(stack_pointer, 0, 6 * sizeof(void*));
#else
  stack_pointer -= 20;
  std::memset(stack_pointer, 0, 20 * sizeof(void*));
  stack_pointer[11] = reinterpret_cast<void*>(entry);  // x30, the link register
#endif
  fiber.stack_pointer = stack_pointer;
#endif
}

void enter_fiber() {
#if defined(EMULATOR_ASAN)
  after_switch(nullptr);
#endif
}

void switch_fiber(Fiber& from, Fiber& to) { hand_over(from, to, false); }

void leave_fiber(Fiber& from, Fiber& to) {
  hand_over(from, to, true);
  std::abort();  // nobody comes back
}

}  // namespace emulator
}  // namespace fcntag
