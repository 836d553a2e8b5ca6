#include "cuda/device/device.h"
#include "cuda/launch.h"
#include "cuda/network.h"

namespace fcntag {
namespace cuda {

namespace {

struct SetIoParams {
  Io* target;
  Io value;
};

FCNTAG_KERNEL(1, 1)
write_io(const FCNTAG_GRID_CONSTANT SetIoParams p) {
  dev::release_successors();
  dev::wait_for_predecessors();  // one of them may still read the old value
  *p.target = p.value;
}

}  // namespace

void set_io(Io* target, const Io& value, Stream stream) {
  launch(&write_io, {dim3(1), 1, 0}, stream, SetIoParams{target, value});
}

}  // namespace cuda
}  // namespace fcntag
