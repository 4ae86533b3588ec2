// Convolutions as six loops over pixels and taps.
#include "kernels/reference/reference_kernels.h"
#include "kernels/reference/values.h"

namespace spindle::reference {

namespace {
struct Sizes {
  int64_t batch, height, width, in, out_height, out_width, out, filter_height, filter_width;
};

// x (B,H,W,Ci), y (B,Ho,Wo,Co), w (Co,R,S,Ci)
Sizes sizes_of(const Shape& x, const Shape& y, const Shape& w) {
  ensure(x.rank() == 4 && y.rank() == 4 && w.rank() == 4 && x[0] == y[0] && x[3] == w[3] &&
             y[3] == w[0],
         "[conv2d] shapes ", x, ", ", y, ", ", w, " do not fit");
  return {x[0], x[1], x[2], x[3], y[1], y[2], y[3], w[1], w[2]};
}

// Calls f(index in y of channel 0, index in x of channel 0, index in w of (co 0, r, s, ci 0)) for
// all that a filter meets.
template <class F>
void for_each_tap(const Sizes& s, const Conv2dArgs& args, F&& f) {
  for (int64_t b = 0; b < s.batch; ++b)
    for (int64_t oh = 0; oh < s.out_height; ++oh)
      for (int64_t ow = 0; ow < s.out_width; ++ow)
        for (int64_t r = 0; r < s.filter_height; ++r)
          for (int64_t q = 0; q < s.filter_width; ++q) {
            int64_t h = oh * args.stride + r - args.pad_before,
                    w = ow * args.stride + q - args.pad_before;
            if (h < 0 || h >= s.height || w < 0 || w >= s.width) continue;
            f(((b * s.out_height + oh) * s.out_width + ow) * s.out,
              ((b * s.height + h) * s.width + w) * s.in, (r * s.filter_width + q) * s.in);
          }
}
}  // namespace

void ReferenceKernels::run(const Conv2dForward& op) {
  Sizes s = sizes_of(op.x.shape(), op.y.shape(), op.w.value.shape());
  Values vx = load(op.x), vw = load(op.w.value), vy(size_t(op.y.numel()));
  int64_t filter = s.filter_height * s.filter_width * s.in;
  for_each_tap(s, op.args, [&](int64_t iy, int64_t ix, int64_t iw) {
    for (int64_t co = 0; co < s.out; ++co)
      for (int64_t ci = 0; ci < s.in; ++ci)
        vy[size_t(iy + co)] += vx[size_t(ix + ci)] * vw[size_t(co * filter + iw + ci)];
  });
  apply_epilogue(vy, s.out, op.epilogue);
  store(op.y, vy);
}

void ReferenceKernels::run(const Conv2dBackwardInput& op) {
  if (!op.dx) return;
  Sizes s = sizes_of(op.dx.tensor.shape(), op.dy.shape(), op.w.value.shape());
  Values vdy = load(op.dy), vw = load(op.w.value), vdx(size_t(op.dx.tensor.numel()));
  int64_t filter = s.filter_height * s.filter_width * s.in;
  for_each_tap(s, op.args, [&](int64_t iy, int64_t ix, int64_t iw) {
    for (int64_t co = 0; co < s.out; ++co)
      for (int64_t ci = 0; ci < s.in; ++ci)
        vdx[size_t(ix + ci)] += vdy[size_t(iy + co)] * vw[size_t(co * filter + iw + ci)];
  });
  store(op.dx, std::move(vdx));
}

void ReferenceKernels::run(const Conv2dBackwardWeight& op) {
  Values vdy = load(op.dy), vx = load(op.x);
  if (op.dw) {
    Sizes s = sizes_of(op.x.shape(), op.dy.shape(), op.dw.tensor.shape());
    Values vdw(size_t(op.dw.tensor.numel()));
    int64_t filter = s.filter_height * s.filter_width * s.in;
    for_each_tap(s, op.args, [&](int64_t iy, int64_t ix, int64_t iw) {
      for (int64_t co = 0; co < s.out; ++co)
        for (int64_t ci = 0; ci < s.in; ++ci)
          vdw[size_t(co * filter + iw + ci)] += vdy[size_t(iy + co)] * vx[size_t(ix + ci)];
    });
    store(op.dw, std::move(vdw));
  }
  if (op.db) {
    Values vdb(size_t(op.db.tensor.numel()));
    for (size_t i = 0; i < vdy.size(); ++i) vdb[i % vdb.size()] += vdy[i];
    store(op.db, std::move(vdb));
  }
}

}  // namespace spindle::reference
