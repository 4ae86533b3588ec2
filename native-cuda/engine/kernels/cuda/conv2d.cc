// Convolutions through the library's port (convolutions.h), and by a kernel of our own what its
// epilogue does not do.
#include "kernels/cuda/cuda_kernels.h"

namespace spindle::cuda {

void CudaKernels::run(const Conv2dForward& op) {
  Call call(device_, op.kName, op.x, op.w.shape());
  bool behind = op.epilogue.per_image || op.epilogue.activation != Activation::None;
  libraries_.convolutions->forward(op.y, op.x, values_of(op.w),
                                   as_type(op.epilogue.bias, op.y.dtype()),
                                   behind ? Tensor() : op.epilogue.residual, op.args);
  if (behind)
    add_epilogue(op.y, op.y.dim(-1),
                 {.per_image = op.epilogue.per_image,
                  .residual = op.epilogue.residual,
                  .activation = op.epilogue.activation});
}

void CudaKernels::run(const Conv2dBackwardInput& op) {
  if (!op.dx) return;
  Call call(device_, op.kName, op.dy, op.w.shape());
  libraries_.convolutions->backward_input(op.dx, op.dy, values_of(op.w), op.args);
}

void CudaKernels::run(const Conv2dBackwardWeight& op) {
  Call call(device_, op.kName, op.dy, op.x);
  if (op.dw) libraries_.convolutions->backward_weight(op.dw, op.dy, op.x, op.args);
  if (op.db) sum_columns(op.db, op.dy, 1);
}

}  // namespace spindle::cuda
