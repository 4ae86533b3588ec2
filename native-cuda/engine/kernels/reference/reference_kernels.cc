#include "kernels/reference/reference_kernels.h"

namespace spindle {

std::unique_ptr<Backend> make_reference_kernels() {
  return std::make_unique<reference::ReferenceKernels>();
}

}  // namespace spindle
