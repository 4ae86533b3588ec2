#include "ops/ops.h"

namespace spindle::ops {

Tensor layer_norm(Tape& tape, const Tensor& x, Parameter& gamma, Parameter& beta, double eps) {
  require(gamma.shape[0] == x.dim(-1), "[layer_norm] ", gamma.name, ": input ", x.shape(), " does not fit ", gamma.shape);
  Device& device = tape.device();
  Tensor y = device.empty(x.shape(), x.dtype());
  Tensor mean = device.empty({x.numel() / x.dim(-1)}, Device::stat_dtype(x.dtype())), rstd = device.empty(mean.shape(), mean.dtype());
  device.kernels().layer_norm_forward(y, mean, rstd, x, gamma.value, beta.value, eps);
  tape.record("layer_norm", y, [x, mean, rstd, &gamma, &beta](Grads& g, const Tensor& dy) {
    g.kernels().layer_norm_backward(g.slot(x), gamma.grad_slot(), beta.grad_slot(), dy, x, mean, rstd, gamma.value);
  });
  return y;
}

}  // namespace spindle::ops
