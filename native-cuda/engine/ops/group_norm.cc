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
  device.kernels().group_norm_forward(y, mean, rstd, x, gamma.value, beta.value, args);
  tape.recompute(y, [&device, x = tape.save(x), &gamma, &beta, args, stats = mean.shape()] {
    Tensor values = x.get(), again = device.empty(values.shape(), values.dtype());
    Tensor mean = device.empty(stats, Device::stat_dtype(values.dtype())),
           rstd = device.empty(stats, mean.dtype());
    device.kernels().group_norm_forward(again, mean, rstd, values, gamma.value, beta.value, args);
    return again;
  });
  tape.record("group_norm", y,
              [x = tape.save(x), rx = TensorRef(x), mean, rstd, &gamma, &beta, args](
                  Grads& g, const Tensor& dy) {
                g.kernels().group_norm_backward(g.slot(rx), gamma.grad_slot(), beta.grad_slot(), dy,
                                                x.get(), mean, rstd, gamma.value, beta.value, args);
              });
  return y;
}

}  // namespace spindle::ops
