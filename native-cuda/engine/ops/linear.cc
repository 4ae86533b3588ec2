#include "ops/ops.h"

namespace spindle::ops {

Tensor linear(Tape& tape, const Tensor& x, Parameter& w, const Fused& fused) {
  int64_t n = w.shape[0], k = w.shape.numel() / n;  // a 1x1 filter (N,1,1,K) is a matrix too
  require(x.dim(-1) == k, "[linear] ", w.name, ": input ", x.shape(), " does not fit matrix ", w.shape);
  Device& device = tape.device();
  std::vector<int64_t> dims = x.shape().dims();
  dims.back() = n;
  Tensor y = device.empty(Shape(dims), x.dtype());
  if (fused.residual) require(fused.residual.numel() == y.numel(), "[linear] ", w.name, ": residual ", fused.residual.shape(), " does not fit output ", y.shape());
  int64_t rows = x.numel() / k;
  auto matrix = [n, k](Parameter& p) { return p.weight().reshape({n, k}); };
  Tensor flat_y = y.reshape({rows, n});
  Epilogue epilogue{fused.bias ? fused.bias->value : Tensor(), fused.per_image, fused.residual ? fused.residual.reshape({rows, n}) : Tensor(), Activation::None};
  device.kernels().linear_forward(flat_y, x.reshape({rows, k}), matrix(w), epilogue);
  std::vector<TensorRef> per_image, residual;
  if (fused.per_image) per_image.emplace_back(fused.per_image);
  if (fused.residual) residual.emplace_back(fused.residual);
  tape.record("linear", y, [x, &w, bias = fused.bias, per_image, residual, rows, n, k, matrix](Grads& g, const Tensor& dy) {
    Kernels& kernels = g.kernels();
    Tensor flat_dy = dy.reshape({rows, n});
    if (GradSlot dw = w.grad_slot()) {
      dw.tensor = dw.tensor.reshape({n, k});
      kernels.linear_backward_weight(dw, bias ? bias->grad_slot() : GradSlot(), flat_dy, x.reshape({rows, k}));
    }
    if (GradSlot dx = g.slot(x)) {
      dx.tensor = dx.tensor.reshape({rows, k});
      kernels.linear_backward_input(dx, flat_dy, matrix(w));
    }
    for (const TensorRef& t : per_image)
      if (GradSlot dt = g.slot(t)) kernels.sum_per_image(dt, dy);
    for (const TensorRef& r : residual) g.add(r, dy);
  });
  return y;
}

}  // namespace spindle::ops
