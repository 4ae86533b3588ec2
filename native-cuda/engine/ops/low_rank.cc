// A low-rank adapter on top of a product, and GEGLU over a product that was adapted.
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
  kernels.run(LinearForward{.y = reduced, .x = x.reshape({rows, k}), .w = a.weight()});
  kernels.run(Scale{.y = scaled, .x = reduced, .factor = adapter.scale});
  Tensor flat_y = y.reshape({rows, n});
  Epilogue epilogue;
  epilogue.residual = base.reshape({rows, n});
  kernels.run(LinearForward{.y = flat_y, .x = scaled, .w = b.weight(), .epilogue = epilogue});
  tape.record("low_rank", y,
              [x = tape.save(x), rx = TensorRef(x), rbase = TensorRef(base), scaled, &a, &b,
               factor = adapter.scale, rows, rank, k, n](Grads& g, const Tensor& dy) {
                Kernels& kernels = g.kernels();
                Tensor flat_dy = dy.reshape({rows, n}), values = x.get().reshape({rows, k});
                if (GradSlot db = b.grad_slot())
                  kernels.run(LinearBackwardWeight{.dw = db, .dy = flat_dy, .x = scaled});
                Tensor dscaled = g.device().empty({rows, rank}, dy.dtype()),
                       dreduced = g.device().empty({rows, rank}, dy.dtype());
                kernels.run(LinearBackwardInput{.dx = {dscaled}, .dy = flat_dy, .w = b.weight()});
                kernels.run(Scale{.y = dreduced, .x = dscaled, .factor = factor});
                if (GradSlot da = a.grad_slot())
                  kernels.run(LinearBackwardWeight{.dw = da, .dy = dreduced, .x = values});
                if (GradSlot dx = g.slot(rx)) {
                  dx.tensor = dx.tensor.reshape({rows, k});
                  kernels.run(LinearBackwardInput{.dx = dx, .dy = dreduced, .w = a.weight()});
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
  tape.device().kernels().run(GegluForward{.y = y, .x = x});
  tape.record("geglu", y, [x = tape.save(x), rx = TensorRef(x)](Grads& g, const Tensor& dy) {
    Tensor values = x.get();
    if (GradSlot dx = g.slot(rx)) g.kernels().run(GegluBackward{.dx = dx, .dy = dy, .x = values});
  });
  return y;
}

}  // namespace spindle::ops
