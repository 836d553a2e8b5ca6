// A stage of a front end as Python holds it, with the GPU that its tables lie on.
#pragma once

#include <memory>

namespace fcntag {
namespace cuda {

// A stage of a chain, and the GPU that it was made on.
template <typename Stage>
struct OnDevice {
  int device;
  std::shared_ptr<Stage> stage;
};

}  // namespace cuda
}  // namespace fcntag
