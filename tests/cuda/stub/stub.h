// What the stub of CUDA has seen, and what a test tells it.
#pragma once

namespace stub {

extern int calls;               // of the runtime and the driver, but for those that no context is needed for
extern int set_device_calls;    // of cudaSetDevice()
extern bool somebody_captures;  // another thread records a graph, in the default mode, on a stream that waits for the
                                // legacy default stream
extern bool capture_is_lost;    // by a call that ends such a recording
extern bool busy;               // events have not happened yet
bool active(int device);        // there is a context on the GPU
int current();                  // the GPU of the thread's context, or -1
int capture_mode();             // of the thread

}  // namespace stub
