// Activations and sums of tensors of one shape.
#include "ops/ops.h"

namespace spindle::ops {

Tensor activation(Tape& tape, const Tensor& x, Activation kind) {
  Tensor y = tape.device().empty(x.shape(), x.dtype());
  tape.kernels().run(ActivationForward{.y = y, .x = x, .kind = kind});
  tape.record("activation", y, [x, kind](Grads& g, const Tensor& dy) {
    if (GradSlot dx = g.slot(x))
      g.kernels().run(ActivationBackward{.dx = dx, .dy = dy, .x = x, .kind = kind});
  });
  return y;
}

Tensor add(Tape& tape, const Tensor& a, const Tensor& b) {
  require(a.numel() == b.numel(), "[add] ", a.shape(), " and ", b.shape(), " do not fit");
  Tensor y = tape.device().empty(a.shape(), a.dtype());
  tape.kernels().run(Add{.y = y, .a = a, .b = b});
  tape.record("add", y, [ra = TensorRef(a), rb = TensorRef(b)](Grads& g, const Tensor& dy) {
    g.add(ra, dy);
    g.add(rb, dy);
  });
  return y;
}

}  // namespace spindle::ops
