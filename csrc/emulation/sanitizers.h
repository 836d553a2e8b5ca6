// Messages of the emulator to ThreadSanitizer and AddressSanitizer. Built without them, it says nothing.
//
// Under ThreadSanitizer (EMULATOR_TSAN) emulator.cpp and fibers.cpp are compiled without instrumentation: they run on
// one OS thread, and their bookkeeping would count as synchronisation, or as races, of the kernel. They say by hand
// what a GPU does: which thread reads and writes kernel memory, and which of it is ordered.
#pragma once

#include <cstddef>

#if defined(EMULATOR_ASAN)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#if defined(EMULATOR_TSAN)
extern "C" {
void* __tsan_get_current_fiber();
void* __tsan_create_fiber(unsigned flags);
void __tsan_destroy_fiber(void* fiber);
void __tsan_switch_to_fiber(void* fiber, unsigned flags);
void __tsan_acquire(void* object);
void __tsan_release(void* object);
void __tsan_read_range(void* start, unsigned long bytes);
void __tsan_write_range(void* start, unsigned long bytes);
void AnnotateIgnoreReadsBegin(const char* file, int line);
void AnnotateIgnoreReadsEnd(const char* file, int line);
void AnnotateIgnoreWritesBegin(const char* file, int line);
void AnnotateIgnoreWritesEnd(const char* file, int line);
}
#endif

namespace fcntag {
namespace emulator {

#if defined(EMULATOR_TSAN)

constexpr bool kThreadSanitizer = true;

// Everything before any give_order(object) comes before everything after this.
inline void take_order(void* object) { __tsan_acquire(object); }
inline void give_order(void* object) { __tsan_release(object); }
inline void note_read(const void* start, std::size_t bytes) { __tsan_read_range(const_cast<void*>(start), bytes); }
inline void note_write(void* start, std::size_t bytes) { __tsan_write_range(start, bytes); }

// Accesses that are no kernel's: memset and its like are seen even where the caller is not instrumented.
class Unseen {
 public:
  Unseen() {
    AnnotateIgnoreReadsBegin("", 0);
    AnnotateIgnoreWritesBegin("", 0);
  }
  ~Unseen() {
    AnnotateIgnoreWritesEnd("", 0);
    AnnotateIgnoreReadsEnd("", 0);
  }
  Unseen(const Unseen&) = delete;
  Unseen& operator=(const Unseen&) = delete;
};

#else

constexpr bool kThreadSanitizer = false;
inline void take_order(void*) {}
inline void give_order(void*) {}
inline void note_read(const void*, std::size_t) {}
inline void note_write(void*, std::size_t) {}
class Unseen {
 public:
  Unseen() {}
  ~Unseen() {}  // not trivial, or a variable of it would be "unused"
};

#endif

#if defined(EMULATOR_ASAN)
constexpr bool kAddressSanitizer = true;
inline void forbid(const void* start, std::size_t bytes) { ASAN_POISON_MEMORY_REGION(start, bytes); }
inline void allow(const void* start, std::size_t bytes) { ASAN_UNPOISON_MEMORY_REGION(start, bytes); }
#else
constexpr bool kAddressSanitizer = false;
inline void forbid(const void*, std::size_t) {}
inline void allow(const void*, std::size_t) {}
#endif

}  // namespace emulator
}  // namespace fcntag
