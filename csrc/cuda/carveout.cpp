#include <cstdlib>
#include <string>

#include "cuda/runtime.h"

namespace fcntag {
namespace cuda {

int shared_memory_carveout() {
  constexpr const char* kName = "FCNTAG_CUDA_CARVEOUT";
  constexpr int kAll = 100;
  const char* text = std::getenv(kName);
  if (text == nullptr || *text == '\0') return kAll;
  char* end = nullptr;
  const long value = std::strtol(text, &end, 10);
  if (*end != '\0' || value < -1 || value > kAll) {
    throw DeviceError(std::string(kName) + "=" + text + "; allowed: 0 to 100, percent, or -1 for the driver's choice");
  }
  return static_cast<int>(value);
}

}  // namespace cuda
}  // namespace fcntag
