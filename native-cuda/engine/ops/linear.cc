// Linear layers with their epilogue, and the one whose halves are multiplied (GEGLU).
#include <memory>
#include <optional>

#include "ops/ops.h"

namespace spindle::ops {

Tensor linear(Tape& tape, const Tensor& x, Parameter& w, const Fused& fused) {
  int64_t n = w.shape[0], k = w.shape.numel() / n;  // a 1x1 filter (N,1,1,K) is a matrix too
  require(x.dim(-1) == k, "[linear] ", w.name, ": input ", x.shape(), " does not fit matrix ",
          w.shape);
  Device& device = tape.device();
  std::vector<int64_t> dims = x.shape().dims();
  dims.back() = n;
  Tensor y = device.empty(Shape(dims), x.dtype());
  if (fused.residual)
    require(fused.residual.numel() == y.numel(), "[linear] ", w.name, ": residual ",
            fused.residual.shape(), " does not fit output ", y.shape());
  int64_t rows = x.numel() / k;
  auto matrix = [n, k](Parameter& p) { return p.weight().reshape({n, k}); };
  Tensor flat_y = y.reshape({rows, n});
  Epilogue epilogue{.bias = fused.bias ? fused.bias->value : Tensor(),
                    .per_image = fused.per_image,
                    .residual = fused.residual ? fused.residual.reshape({rows, n}) : Tensor(),
                    .positions_per_image = x.shape().rank() == 4 ? x.dim(1) * x.dim(2) : 1};
  device.kernels().run(
      LinearForward{.y = flat_y, .x = x.reshape({rows, k}), .w = matrix(w), .epilogue = epilogue});
  std::vector<TensorRef> per_image, residual;
  if (fused.per_image) per_image.emplace_back(fused.per_image);
  if (fused.residual) residual.emplace_back(fused.residual);
  // A frozen matrix does not need its input again.
  std::optional<SavedTensor> saved;
  if (w.grad) saved = tape.save(x);
  tape.record("linear", y,
              [saved, rx = TensorRef(x), &w, bias = fused.bias, per_image, residual, rows, n, k,
               matrix](Grads& g, const Tensor& dy) {
                Kernels& kernels = g.kernels();
                Tensor flat_dy = dy.reshape({rows, n});
                if (GradSlot dw = w.grad_slot()) {
                  dw.tensor = dw.tensor.reshape({n, k});
                  kernels.run(LinearBackwardWeight{.dw = dw,
                                                   .db = bias ? bias->grad_slot() : GradSlot(),
                                                   .dy = flat_dy,
                                                   .x = saved->get().reshape({rows, k})});
                }
                if (GradSlot dx = g.slot(rx)) {
                  dx.tensor = dx.tensor.reshape({rows, k});
                  kernels.run(LinearBackwardInput{.dx = dx, .dy = flat_dy, .w = matrix(w)});
                }
                for (const TensorRef& t : per_image)
                  if (GradSlot dt = g.slot(t)) kernels.run(SumPerImage{.dt = dt, .dy = dy});
                for (const TensorRef& r : residual) g.add(r, dy);
              });
  return w.low_rank ? low_rank(tape, x, *w.low_rank, y) : y;
}

Tensor linear_geglu(Tape& tape, const Tensor& x, Parameter& w, Parameter* bias) {
  int64_t n = w.shape[0], k = w.shape[1], rows = x.numel() / k;
  require(x.dim(-1) == k && n % 2 == 0, "[linear_geglu] ", w.name, ": input ", x.shape(),
          " does not fit matrix ", w.shape);
  if (w.low_rank)
    return geglu(tape, linear(tape, x, w, {.bias = bias, .per_image = {}, .residual = {}}));
  Device& device = tape.device();
  std::vector<int64_t> dims = x.shape().dims();
  dims.back() = n / 2;
  Tensor y = device.empty(Shape(dims), x.dtype()), flat_y = y.reshape({rows, n / 2});
  Tensor b = bias ? bias->value : Tensor();
  device.kernels().run(
      LinearGegluForward{.y = flat_y, .x = x.reshape({rows, k}), .w = w.weight(), .bias = b});
  if (!tape.recording()) return y;
  // The product, computed once in backward: for y, if a later layer's gradient needs that, and for
  // the gradient here.
  struct Product {
    SavedTensor x;
    Tensor values, value;
  };
  auto product = std::make_shared<Product>(Product{tape.save(x), {}, {}});
  auto compute = [&device, product, &w, b, rows, k, n] {
    if (product->value) return;
    product->values = product->x.get().reshape({rows, k});
    product->value = device.empty({rows, n}, product->values.dtype());
    Epilogue epilogue;
    epilogue.bias = b;
    device.kernels().run(LinearForward{
        .y = product->value, .x = product->values, .w = w.weight(), .epilogue = epilogue});
  };
  tape.recompute(y, [&device, product, compute, rows, n, shape = y.shape()] {
    compute();
    Tensor again = device.empty({rows, n / 2}, product->value.dtype());
    device.kernels().run(GegluForward{.y = again, .x = product->value});
    return again.reshape(shape);
  });
  tape.record(
      "linear_geglu", y,
      [product, compute, rx = TensorRef(x), &w, bias, rows, k, n](Grads& g, const Tensor& dy) {
        compute();
        Tensor values = product->values, flat_dy = dy.reshape({rows, n / 2}),
               dproduct = g.device().empty({rows, n}, dy.dtype());
        g.kernels().run(GegluBackward{.dx = {dproduct}, .dy = flat_dy, .x = product->value});
        product->value = Tensor();
        if (GradSlot dw = w.grad_slot())
          g.kernels().run(LinearBackwardWeight{
              .dw = dw, .db = bias ? bias->grad_slot() : GradSlot(), .dy = dproduct, .x = values});
        if (GradSlot dx = g.slot(rx)) {
          dx.tensor = dx.tensor.reshape({rows, k});
          g.kernels().run(LinearBackwardInput{.dx = dx, .dy = dproduct, .w = w.weight()});
        }
      });
  return y;
}

}  // namespace spindle::ops
