// Convolution with its epilogue; a 1x1 filter is a linear layer.
#include <optional>

#include "ops/ops.h"

namespace spindle::ops {

Tensor conv2d(Tape& tape,
              const Tensor& x,
              Parameter& w,
              const Fused& fused,
              const Conv2dArgs& args) {
  require(x.rank() == 4 && w.shape.rank() == 4 && x.dim(3) == w.shape[3], "[conv2d] ", w.name,
          ": input ", x.shape(), " does not fit filter ", w.shape);
  int64_t height = args.out_size(x.dim(1), w.shape[1]), width = args.out_size(x.dim(2), w.shape[2]);
  require(height > 0 && width > 0, "[conv2d] ", w.name, ": input ", x.shape(),
          " is smaller than the filter ", w.shape);
  Device& device = tape.device();
  Tensor y = device.empty({x.dim(0), height, width, w.shape[0]}, x.dtype());
  if (fused.residual)
    require(fused.residual.numel() == y.numel(), "[conv2d] ", w.name, ": residual ",
            fused.residual.shape(), " does not fit output ", y.shape());
  Epilogue epilogue{.bias = fused.bias ? fused.bias->value : Tensor(),
                    .per_image = fused.per_image,
                    .residual = fused.residual};
  device.kernels().run(
      Conv2dForward{.y = y, .x = x, .w = w.weight(), .epilogue = epilogue, .args = args});
  std::vector<TensorRef> per_image, residual;
  if (fused.per_image) per_image.emplace_back(fused.per_image);
  if (fused.residual) residual.emplace_back(fused.residual);
  // A frozen filter does not need its input again.
  std::optional<SavedTensor> saved;
  if (w.grad) saved = tape.save(x);
  tape.record("conv2d", y,
              [saved, rx = TensorRef(x), &w, bias = fused.bias, per_image, residual, args](
                  Grads& g, const Tensor& dy) {
                Kernels& k = g.kernels();
                if (GradSlot dw = w.grad_slot())
                  k.run(Conv2dBackwardWeight{.dw = dw,
                                             .db = bias ? bias->grad_slot() : GradSlot(),
                                             .dy = dy,
                                             .x = saved->get(),
                                             .args = args});
                if (GradSlot dx = g.slot(rx))
                  k.run(Conv2dBackwardInput{.dx = dx, .dy = dy, .w = w.weight(), .args = args});
                for (const TensorRef& t : per_image)
                  if (GradSlot dt = g.slot(t)) k.run(SumPerImage{.dt = dt, .dy = dy});
                for (const TensorRef& r : residual) g.add(r, dy);
              });
  return y;
}

}  // namespace spindle::ops
