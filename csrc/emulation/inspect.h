// What tests may ask the emulated runtime beyond cuda/runtime.h.
#pragma once

#include <cstddef>

#include "cuda/runtime.h"

namespace fcntag {
namespace cuda {

void forget_contexts();                    // no GPU has one, as when the process began
std::size_t recorded_work(Stream stream);  // launches, copies and events in the capture of a stream

}  // namespace cuda
}  // namespace fcntag
