// Concatenation of channels and nearest upsampling.
#include "ops/ops.h"

namespace spindle::ops {

Tensor concat_channels(Tape& tape, const Tensor& a, const Tensor& b) {
  require(a.rank() == b.rank() && a.numel() / a.dim(-1) == b.numel() / b.dim(-1),
          "[concat_channels] ", a.shape(), " and ", b.shape(), " do not fit");
  std::vector<int64_t> dims = a.shape().dims();
  dims.back() += b.dim(-1);
  Tensor y = tape.device().empty(Shape(dims), a.dtype());
  tape.kernels().run(ConcatChannels{.y = y, .a = a, .b = b});
  tape.recompute(
      y, [&device = tape.device(), a = tape.save(a), b = tape.save(b), shape = y.shape()] {
        Tensor first = a.get(), second = b.get(), again = device.empty(shape, first.dtype());
        device.kernels().run(ConcatChannels{.y = again, .a = first, .b = second});
        return again;
      });
  tape.record(
      "concat_channels", y, [ra = TensorRef(a), rb = TensorRef(b)](Grads& g, const Tensor& dy) {
        if (ra.id != rb.id)
          return g.kernels().run(SplitChannels{.da = g.slot(ra), .db = g.slot(rb), .dy = dy});
        GradSlot da = g.separate(ra), db = g.separate(rb);
        g.kernels().run(SplitChannels{.da = da, .db = db, .dy = dy});
        g.add(ra, da.tensor);
        g.add(rb, db.tensor);
      });
  return y;
}

Tensor upsample_nearest(Tape& tape, const Tensor& x, int64_t height, int64_t width) {
  require(x.rank() == 4, "[upsample_nearest] expected (B, H, W, C), got ", x.shape());
  Tensor y = tape.device().empty({x.dim(0), height, width, x.dim(3)}, x.dtype());
  tape.kernels().run(UpsampleNearestForward{.y = y, .x = x});
  tape.record("upsample_nearest", y, [rx = TensorRef(x)](Grads& g, const Tensor& dy) {
    if (GradSlot dx = g.slot(rx)) g.kernels().run(UpsampleNearestBackward{.dx = dx, .dy = dy});
  });
  return y;
}

}  // namespace spindle::ops
