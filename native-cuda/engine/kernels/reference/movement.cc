// Where values go to other places: concatenation, resampling, tables, layouts.
#include "kernels/reference/reference_kernels.h"
#include "kernels/reference/values.h"

namespace spindle::reference {

namespace {
Values take_rows(const Tensor& table, std::span<const int32_t> rows) {
  int64_t width = table.dim(-1), count = int64_t(rows.size());
  Values from = load(table), to(size_t(count * width));
  for (int64_t i = 0; i < count; ++i)
    for (int64_t c = 0; c < width; ++c) at(to, i, c, width) = at(from, rows[size_t(i)], c, width);
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

void ReferenceKernels::run(const ConcatChannels& op) {
  int64_t ca = op.a.dim(-1), cb = op.b.dim(-1), c = ca + cb, rows = op.y.numel() / c;
  Values va = load(op.a), vb = load(op.b), vy(size_t(op.y.numel()));
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t i = 0; i < ca; ++i) at(vy, row, i, c) = at(va, row, i, ca);
    for (int64_t i = 0; i < cb; ++i) at(vy, row, ca + i, c) = at(vb, row, i, cb);
  }
  store(op.y, vy);
}

void ReferenceKernels::run(const SplitChannels& op) {
  int64_t c = op.dy.dim(-1), rows = op.dy.numel() / c;
  int64_t ca = op.da ? op.da.tensor.dim(-1) : op.db ? c - op.db.tensor.dim(-1) : 0, cb = c - ca;
  Values vdy = load(op.dy), va(size_t(rows * ca)), vb(size_t(rows * cb));
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t i = 0; i < ca; ++i) at(va, row, i, ca) = at(vdy, row, i, c);
    for (int64_t i = 0; i < cb; ++i) at(vb, row, i, cb) = at(vdy, row, ca + i, c);
  }
  store(op.da, std::move(va));
  store(op.db, std::move(vb));
}

void ReferenceKernels::run(const UpsampleNearestForward& op) {
  Values vx = load(op.x), vy(size_t(op.y.numel()));
  for_each_nearest(op.y.shape(), op.x.shape(), [&](size_t to, size_t from) { vy[to] = vx[from]; });
  store(op.y, vy);
}

void ReferenceKernels::run(const UpsampleNearestBackward& op) {
  if (!op.dx) return;
  Values vdy = load(op.dy), vdx(size_t(op.dx.tensor.numel()));
  for_each_nearest(op.dy.shape(), op.dx.tensor.shape(),
                   [&](size_t to, size_t from) { vdx[from] += vdy[to]; });
  store(op.dx, std::move(vdx));
}

void ReferenceKernels::run(const EmbeddingForward& op) { store(op.y, take_rows(op.table, op.ids)); }

void ReferenceKernels::run(const GatherRows& op) { store(op.y, take_rows(op.x, op.rows)); }

void ReferenceKernels::run(const TimestepEmbedding& op) {
  int64_t batch = op.y.dim(0), width = op.y.dim(1), half = width / 2;
  Values vy(size_t(op.y.numel()));
  for (int64_t b = 0; b < batch; ++b)
    for (int64_t i = 0; i < half; ++i) {
      double angle =
          double(op.timesteps.f32()[b]) *
          std::exp(-std::log(op.args.max_period) * double(i) / (double(half) - op.args.freq_shift));
      at(vy, b, op.args.flip_sin_to_cos ? half + i : i, width) = std::sin(angle);
      at(vy, b, op.args.flip_sin_to_cos ? i : half + i, width) = std::cos(angle);
    }
  store(op.y, vy);
}

void ReferenceKernels::run(const NchwToNhwc& op) {
  Values from = load(op.x), to(from.size());
  for_each_transposed(op.y.shape(), [&](size_t nhwc, size_t nchw) { to[nhwc] = from[nchw]; });
  store(op.y, to);
}

void ReferenceKernels::run(const NhwcToNchw& op) {
  Values from = load(op.x), to(from.size());
  for_each_transposed(op.x.shape(), [&](size_t nhwc, size_t nchw) { to[nchw] = from[nhwc]; });
  store(op.y, to);
}

}  // namespace spindle::reference
