#include "autograd/device.h"

#include <cstring>

namespace spindle {

Device::Device(const DeviceOptions& options) : threads_(options.threads) {
  require(options.backend == "cpu" || options.backend == "reference", "[device] backend: expected cpu or reference, got ", options.backend);
  if (options.backend == "reference") {
    kernels_ = make_reference_kernels();
    isa_ = "reference";
  } else {
    kernels_ = make_cpu_kernels(threads_, {.isa = options.isa.c_str()});
    isa_ = kernels_->name();
  }
}

Tensor Device::zeros(const Shape& shape, DType dtype) {
  Tensor t = empty(shape, dtype);
  std::memset(t.raw(), 0, t.bytes());
  return t;
}

}  // namespace spindle
