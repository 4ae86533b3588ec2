#include "ops/ops.h"

namespace spindle::ops {

Tensor activation(Tape& tape, const Tensor& x, Activation kind) {
  Tensor y = tape.device().empty(x.shape(), x.dtype());
  tape.kernels().activation_forward(y, x, kind);
  tape.record("activation", y, [x, kind](Grads& g, const Tensor& dy) {
    if (GradSlot dx = g.slot(x)) g.kernels().activation_backward(dx, dy, x, kind);
  });
  return y;
}

Tensor geglu(Tape& tape, const Tensor& x) {
  require(x.dim(-1) % 2 == 0, "[geglu] width ", x.dim(-1), " is odd");
  std::vector<int64_t> dims = x.shape().dims();
  dims.back() /= 2;
  Tensor y = tape.device().empty(Shape(dims), x.dtype());
  tape.kernels().geglu_forward(y, x);
  tape.record("geglu", y, [x](Grads& g, const Tensor& dy) {
    if (GradSlot dx = g.slot(x)) g.kernels().geglu_backward(dx, dy, x);
  });
  return y;
}

Tensor add(Tape& tape, const Tensor& a, const Tensor& b) {
  require(a.numel() == b.numel(), "[add] ", a.shape(), " and ", b.shape(), " do not fit");
  Tensor y = tape.device().empty(a.shape(), a.dtype());
  tape.kernels().add(y, a, b);
  tape.record("add", y, [ra = TensorRef(a), rb = TensorRef(b)](Grads& g, const Tensor& dy) {
    g.add(ra, dy);
    g.add(rb, dy);
  });
  return y;
}

}  // namespace spindle::ops
