#include "kernels/reference/reference_kernels.h"
#include "kernels/reference/values.h"

namespace spindle::reference {

namespace {
Values take_rows(const Tensor& table, const int32_t* rows, int64_t count) {
  int64_t width = table.dim(-1);
  Values from = load(table), to(size_t(count * width));
  for (int64_t i = 0; i < count; ++i)
    for (int64_t c = 0; c < width; ++c) at(to, i, c, width) = at(from, rows[i], c, width);
  return to;
}

// Calls f(index in y, index in x) for every element of y (B,Ho,Wo,C), x (B,H,W,C).
template <class F>
void for_each_nearest(const Shape& y, const Shape& x, F&& f) {
  for (int64_t b = 0; b < y[0]; ++b)
    for (int64_t h = 0; h < y[1]; ++h)
      for (int64_t w = 0; w < y[2]; ++w)
        for (int64_t c = 0; c < y[3]; ++c) {
          int64_t from_h = h * x[1] / y[1], from_w = w * x[2] / y[2];
          f(size_t(((b * y[1] + h) * y[2] + w) * y[3] + c),
            size_t(((b * x[1] + from_h) * x[2] + from_w) * x[3] + c));
        }
}

// Calls f(index in (B,H,W,C), index in (B,C,H,W)).
template <class F>
void for_each_transposed(const Shape& nhwc, F&& f) {
  int64_t channels = nhwc[3], pixels = nhwc[1] * nhwc[2];
  for (int64_t b = 0; b < nhwc[0]; ++b)
    for (int64_t p = 0; p < pixels; ++p)
      for (int64_t c = 0; c < channels; ++c)
        f(size_t((b * pixels + p) * channels + c), size_t((b * channels + c) * pixels + p));
}
}  // namespace

void ReferenceKernels::concat_channels(Tensor& y, const Tensor& a, const Tensor& b) {
  int64_t ca = a.dim(-1), cb = b.dim(-1), c = ca + cb, rows = y.numel() / c;
  Values va = load(a), vb = load(b), vy(size_t(y.numel()));
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t i = 0; i < ca; ++i) at(vy, row, i, c) = at(va, row, i, ca);
    for (int64_t i = 0; i < cb; ++i) at(vy, row, ca + i, c) = at(vb, row, i, cb);
  }
  store(y, vy);
}

void ReferenceKernels::split_channels(const GradSlot& da, const GradSlot& db, const Tensor& dy) {
  int64_t c = dy.dim(-1), rows = dy.numel() / c;
  int64_t ca = da ? da.tensor.dim(-1) : db ? c - db.tensor.dim(-1) : 0, cb = c - ca;
  Values vdy = load(dy), va(size_t(rows * ca)), vb(size_t(rows * cb));
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t i = 0; i < ca; ++i) at(va, row, i, ca) = at(vdy, row, i, c);
    for (int64_t i = 0; i < cb; ++i) at(vb, row, i, cb) = at(vdy, row, ca + i, c);
  }
  store(da, std::move(va));
  store(db, std::move(vb));
}

void ReferenceKernels::upsample_nearest_forward(Tensor& y, const Tensor& x) {
  Values vx = load(x), vy(size_t(y.numel()));
  for_each_nearest(y.shape(), x.shape(), [&](size_t to, size_t from) { vy[to] = vx[from]; });
  store(y, vy);
}

void ReferenceKernels::upsample_nearest_backward(const GradSlot& dx, const Tensor& dy) {
  if (!dx) return;
  Values vdy = load(dy), vdx(size_t(dx.tensor.numel()));
  for_each_nearest(dy.shape(), dx.tensor.shape(),
                   [&](size_t to, size_t from) { vdx[from] += vdy[to]; });
  store(dx, std::move(vdx));
}

void ReferenceKernels::embedding_forward(Tensor& y,
                                         const Tensor& table,
                                         const int32_t* ids,
                                         int64_t count) {
  store(y, take_rows(table, ids, count));
}

void ReferenceKernels::gather_rows(Tensor& y, const Tensor& x, const int32_t* rows, int64_t count) {
  store(y, take_rows(x, rows, count));
}

void ReferenceKernels::timestep_embedding(Tensor& y,
                                          const Tensor& timesteps,
                                          const TimestepArgs& args) {
  int64_t batch = y.dim(0), width = y.dim(1), half = width / 2;
  Values vy(size_t(y.numel()));
  for (int64_t b = 0; b < batch; ++b)
    for (int64_t i = 0; i < half; ++i) {
      double angle = double(timesteps.f32()[b]) * std::exp(-std::log(args.max_period) * double(i) /
                                                           (double(half) - args.freq_shift));
      at(vy, b, args.flip_sin_to_cos ? half + i : i, width) = std::sin(angle);
      at(vy, b, args.flip_sin_to_cos ? i : half + i, width) = std::cos(angle);
    }
  store(y, vy);
}

void ReferenceKernels::nchw_to_nhwc(Tensor& y, const Tensor& x) {
  Values from = load(x), to(from.size());
  for_each_transposed(y.shape(), [&](size_t nhwc, size_t nchw) { to[nhwc] = from[nchw]; });
  store(y, to);
}

void ReferenceKernels::nhwc_to_nchw(Tensor& y, const Tensor& x) {
  Values from = load(x), to(from.size());
  for_each_transposed(x.shape(), [&](size_t nhwc, size_t nchw) { to[nchw] = from[nhwc]; });
  store(y, to);
}

void ReferenceKernels::cast(Tensor& y, const Tensor& x) { store(y, load(x)); }

void ReferenceKernels::fill(Tensor& y, double value) { store(y, Values(size_t(y.numel()), value)); }

}  // namespace spindle::reference
