// Other Python threads run while the core computes.
#pragma once

#include <pybind11/pybind11.h>

#include <chrono>
#include <thread>

namespace fcntag {

// Releases the interpreter's lock while it lives.
//
// A daemon thread may end its computation when the interpreter is already shutting down. Before Python 3.14 taking the
// lock then ends the thread by unwinding its stack. The unwinding cannot leave a destructor, and the objects on the
// stack belong to an interpreter that is going; so the thread stays here until the process ends.
class GilRelease {
 public:
  GilRelease() : state_(PyEval_SaveThread()) {}
  ~GilRelease() {
    try {
      PyEval_RestoreThread(state_);
    } catch (...) {
      for (;;) std::this_thread::sleep_for(std::chrono::hours(1));
    }
  }
  GilRelease(const GilRelease&) = delete;
  GilRelease& operator=(const GilRelease&) = delete;

 private:
  PyThreadState* state_;
};

}  // namespace fcntag
