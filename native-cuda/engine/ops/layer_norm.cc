// Layer norm; what it gave is computed again in backward.
#include "ops/ops.h"

namespace spindle::ops {

Tensor layer_norm(Tape& tape, const Tensor& x, Parameter& gamma, Parameter& beta, double eps) {
  require(gamma.shape[0] == x.dim(-1), "[layer_norm] ", gamma.name, ": input ", x.shape(),
          " does not fit ", gamma.shape);
  Device& device = tape.device();
  Tensor y = device.empty(x.shape(), x.dtype());
  Tensor mean = device.empty({x.numel() / x.dim(-1)}, Device::stat_dtype(x.dtype())),
         rstd = device.empty(mean.shape(), mean.dtype());
  device.kernels().run(LayerNormForward{.y = y,
                                        .mean = mean,
                                        .rstd = rstd,
                                        .x = x,
                                        .gamma = gamma.value,
                                        .beta = beta.value,
                                        .eps = eps});
  tape.recompute(y, [&device, x = tape.save(x), &gamma, &beta, eps, stats = mean.shape()] {
    Tensor values = x.get(), again = device.empty(values.shape(), values.dtype());
    Tensor mean = device.empty(stats, Device::stat_dtype(values.dtype())),
           rstd = device.empty(stats, mean.dtype());
    device.kernels().run(LayerNormForward{.y = again,
                                          .mean = mean,
                                          .rstd = rstd,
                                          .x = values,
                                          .gamma = gamma.value,
                                          .beta = beta.value,
                                          .eps = eps});
    return again;
  });
  tape.record(
      "layer_norm", y,
      [x = tape.save(x), rx = TensorRef(x), mean, rstd, &gamma, &beta](Grads& g, const Tensor& dy) {
        Tensor values = x.get();
        g.kernels().run(LayerNormBackward{.dx = g.slot(rx),
                                          .dgamma = gamma.grad_slot(),
                                          .dbeta = beta.grad_slot(),
                                          .dy = dy,
                                          .x = values,
                                          .mean = mean,
                                          .rstd = rstd,
                                          .gamma = gamma.value});
      });
  return y;
}

}  // namespace spindle::ops
