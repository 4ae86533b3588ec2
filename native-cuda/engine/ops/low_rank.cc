#include "ops/ops.h"

namespace spindle::ops {

Tensor low_rank(Tape& tape, const Tensor& x, const LowRank& adapter, const Tensor& base) {
  Parameter &a = *adapter.a, &b = *adapter.b;
  int64_t rank = a.shape[0], k = a.shape[1], n = b.shape[0], rows = x.numel() / k;
  require(x.dim(-1) == k && b.shape[1] == rank && base.numel() == rows * n, "[low_rank] ", a.name,
          ": input ", x.shape(), " and output ", base.shape(), " do not fit ", a.shape, " and ",
          b.shape);
  Device& device = tape.device();
  Kernels& kernels = device.kernels();
  Tensor reduced = device.empty({rows, rank}, x.dtype()),
         scaled = device.empty({rows, rank}, x.dtype()),
         y = device.empty(base.shape(), base.dtype());
  kernels.linear_forward(reduced, x.reshape({rows, k}), a.weight(), {});
  kernels.scale(scaled, reduced, adapter.scale);
  Tensor flat_y = y.reshape({rows, n});
  Epilogue epilogue;
  epilogue.residual = base.reshape({rows, n});
  kernels.linear_forward(flat_y, scaled, b.weight(), epilogue);
  tape.record("low_rank", y,
              [x = tape.save(x), rx = TensorRef(x), rbase = TensorRef(base), scaled, &a, &b,
               factor = adapter.scale, rows, rank, k, n](Grads& g, const Tensor& dy) {
                Kernels& kernels = g.kernels();
                Tensor flat_dy = dy.reshape({rows, n}), values = x.get().reshape({rows, k});
                if (GradSlot db = b.grad_slot())
                  kernels.linear_backward_weight(db, {}, flat_dy, scaled);
                Tensor dscaled = g.device().empty({rows, rank}, dy.dtype()),
                       dreduced = g.device().empty({rows, rank}, dy.dtype());
                kernels.linear_backward_input({dscaled, false}, flat_dy, b.weight());
                kernels.scale(dreduced, dscaled, factor);
                if (GradSlot da = a.grad_slot())
                  kernels.linear_backward_weight(da, {}, dreduced, values);
                if (GradSlot dx = g.slot(rx)) {
                  dx.tensor = dx.tensor.reshape({rows, k});
                  kernels.linear_backward_input(dx, dreduced, a.weight());
                }
                g.add(rbase, dy);
              });
  return y;
}

Tensor geglu(Tape& tape, const Tensor& x) {
  std::vector<int64_t> dims = x.shape().dims();
  require(dims.back() % 2 == 0, "[geglu] input: expected an even number of columns, got ",
          x.shape());
  dims.back() /= 2;
  Tensor y = tape.device().empty(Shape(dims), x.dtype());
  tape.device().kernels().geglu_forward(y, x);
  tape.record("geglu", y, [x = tape.save(x), rx = TensorRef(x)](Grads& g, const Tensor& dy) {
    Tensor values = x.get();
    if (GradSlot dx = g.slot(rx)) g.kernels().geglu_backward(dx, dy, values);
  });
  return y;
}

}  // namespace spindle::ops
