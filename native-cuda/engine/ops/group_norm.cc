// Group norm, with SiLU where asked; what it gave is computed again in backward.
#include "ops/ops.h"

namespace spindle::ops {

Tensor group_norm(Tape& tape,
                  const Tensor& x,
                  Parameter& gamma,
                  Parameter& beta,
                  const GroupNormArgs& args) {
  require(args.groups > 0 && x.dim(-1) % args.groups == 0, "[group_norm] ", gamma.name, ": ",
          x.dim(-1), " channels are not divisible into ", args.groups, " groups");
  require(gamma.shape[0] == x.dim(-1), "[group_norm] ", gamma.name, ": input ", x.shape(),
          " does not fit ", gamma.shape);
  Device& device = tape.device();
  Tensor y = device.empty(x.shape(), x.dtype());
  Tensor mean = device.empty({x.dim(0), args.groups}, Device::stat_dtype(x.dtype())),
         rstd = device.empty(mean.shape(), mean.dtype());
  device.kernels().run(GroupNormForward{.y = y,
                                        .mean = mean,
                                        .rstd = rstd,
                                        .x = x,
                                        .gamma = gamma.value,
                                        .beta = beta.value,
                                        .args = args});
  tape.recompute(y, [&device, x = tape.save(x), &gamma, &beta, args, stats = mean.shape()] {
    Tensor values = x.get(), again = device.empty(values.shape(), values.dtype());
    Tensor mean = device.empty(stats, Device::stat_dtype(values.dtype())),
           rstd = device.empty(stats, mean.dtype());
    device.kernels().run(GroupNormForward{.y = again,
                                          .mean = mean,
                                          .rstd = rstd,
                                          .x = values,
                                          .gamma = gamma.value,
                                          .beta = beta.value,
                                          .args = args});
    return again;
  });
  tape.record("group_norm", y,
              [x = tape.save(x), rx = TensorRef(x), mean, rstd, &gamma, &beta, args](
                  Grads& g, const Tensor& dy) {
                Tensor values = x.get();
                g.kernels().run(GroupNormBackward{.dx = g.slot(rx),
                                                  .dgamma = gamma.grad_slot(),
                                                  .dbeta = beta.grad_slot(),
                                                  .dy = dy,
                                                  .x = values,
                                                  .mean = mean,
                                                  .rstd = rstd,
                                                  .gamma = gamma.value,
                                                  .beta = beta.value,
                                                  .args = args});
              });
  return y;
}

}  // namespace spindle::ops
