// Linear layers as three loops.
#include "kernels/reference/reference_kernels.h"
#include "kernels/reference/values.h"

namespace spindle::reference {

void apply_epilogue(Values& y, int64_t channels, const Epilogue& epilogue) {
  Values bias = load(epilogue.bias), per_image = load(epilogue.per_image),
         residual = load(epilogue.residual);
  int64_t rows = int64_t(y.size()) / channels, images = int64_t(per_image.size()) / channels;
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t c = 0; c < channels; ++c) {
      double value = at(y, row, c, channels);
      if (!bias.empty()) value += bias[size_t(c)];
      if (!per_image.empty()) value += at(per_image, row / (rows / images), c, channels);
      value = activate(value, epilogue.activation);
      if (!residual.empty()) value += at(residual, row, c, channels);
      at(y, row, c, channels) = value;
    }
}

// y (M,N), x (M,K), w (N,K)
void ReferenceKernels::run(const LinearForward& op) {
  int64_t n = op.w.value.dim(0), k = op.w.value.dim(1), m = op.x.numel() / k;
  Values vx = load(op.x), vw = load(op.w.value), vy(size_t(m * n));
  for (int64_t i = 0; i < m; ++i)
    for (int64_t j = 0; j < n; ++j) {
      double sum = 0;
      for (int64_t l = 0; l < k; ++l) sum += at(vx, i, l, k) * at(vw, j, l, k);
      at(vy, i, j, n) = sum;
    }
  apply_epilogue(vy, n, op.epilogue);
  store(op.y, vy);
}

void ReferenceKernels::run(const LinearGegluForward& op) {
  int64_t n = op.w.value.dim(0), k = op.w.value.dim(1), m = op.x.numel() / k;
  Values vx = load(op.x), vw = load(op.w.value), vb = op.bias ? load(op.bias) : Values(size_t(n)),
         vy(size_t(m * n / 2));
  auto product = [&](int64_t i, int64_t j) {
    double sum = vb[size_t(j)];
    for (int64_t l = 0; l < k; ++l) sum += at(vx, i, l, k) * at(vw, j, l, k);
    return sum;
  };
  for (int64_t i = 0; i < m; ++i)
    for (int64_t j = 0; j < n / 2; ++j)
      at(vy, i, j, n / 2) = product(i, j) * activate(product(i, n / 2 + j), Activation::Gelu);
  store(op.y, vy);
}

void ReferenceKernels::run(const LinearBackwardInput& op) {
  if (!op.dx) return;
  int64_t n = op.w.value.dim(0), k = op.w.value.dim(1), m = op.dy.numel() / n;
  Values vdy = load(op.dy), vw = load(op.w.value), vdx(size_t(m * k));
  for (int64_t i = 0; i < m; ++i)
    for (int64_t j = 0; j < n; ++j)
      for (int64_t l = 0; l < k; ++l) at(vdx, i, l, k) += at(vdy, i, j, n) * at(vw, j, l, k);
  store(op.dx, std::move(vdx));
}

void ReferenceKernels::run(const LinearBackwardWeight& op) {
  int64_t n = op.dy.dim(-1), k = op.x.dim(-1), m = op.dy.numel() / n;
  Values vdy = load(op.dy), vx = load(op.x);
  if (op.dw) {
    Values vdw(size_t(n * k));
    for (int64_t i = 0; i < m; ++i)
      for (int64_t j = 0; j < n; ++j)
        for (int64_t l = 0; l < k; ++l) at(vdw, j, l, k) += at(vdy, i, j, n) * at(vx, i, l, k);
    store(op.dw, std::move(vdw));
  }
  if (op.db) {
    Values vdb(size_t(n), 0.0);
    for (int64_t i = 0; i < m; ++i)
      for (int64_t j = 0; j < n; ++j) vdb[size_t(j)] += at(vdy, i, j, n);
    store(op.db, std::move(vdb));
  }
}

}  // namespace spindle::reference
