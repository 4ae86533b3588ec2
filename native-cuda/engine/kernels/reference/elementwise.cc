#include <numbers>

#include "kernels/reference/reference_kernels.h"
#include "kernels/reference/values.h"

namespace spindle::reference {

namespace {
double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }
double normal_cdf(double x) { return 0.5 * std::erfc(-x / std::numbers::sqrt2); }
double normal_density(double x) { return std::exp(-0.5 * x * x) / std::sqrt(2 * std::numbers::pi); }
constexpr double kQuickGelu = 1.702;
}  // namespace

double activate(double x, Activation kind) {
  switch (kind) {
    case Activation::None:
      return x;
    case Activation::Silu:
      return x * sigmoid(x);
    case Activation::Gelu:
      return x * normal_cdf(x);
    case Activation::QuickGelu:
      return x * sigmoid(kQuickGelu * x);
  }
  return x;
}

double activate_derivative(double x, Activation kind) {
  switch (kind) {
    case Activation::None:
      return 1;
    case Activation::Silu:
      return sigmoid(x) * (1 + x * (1 - sigmoid(x)));
    case Activation::Gelu:
      return normal_cdf(x) + x * normal_density(x);
    case Activation::QuickGelu:
      return sigmoid(kQuickGelu * x) * (1 + kQuickGelu * x * (1 - sigmoid(kQuickGelu * x)));
  }
  return 1;
}

void ReferenceKernels::activation_forward(Tensor& y, const Tensor& x, Activation kind) {
  Values values = load(x);
  for (double& value : values) value = activate(value, kind);
  store(y, values);
}

void ReferenceKernels::activation_backward(const GradSlot& dx,
                                           const Tensor& dy,
                                           const Tensor& x,
                                           Activation kind) {
  Values vx = load(x), vdy = load(dy);
  for (size_t i = 0; i < vx.size(); ++i) vdy[i] *= activate_derivative(vx[i], kind);
  store(dx, std::move(vdy));
}

// x (..., 2C) = [value, gate], y (..., C)
void ReferenceKernels::geglu_forward(Tensor& y, const Tensor& x) {
  int64_t c = y.dim(-1), rows = y.numel() / c;
  Values vx = load(x), vy(size_t(y.numel()));
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t i = 0; i < c; ++i)
      at(vy, row, i, c) =
          at(vx, row, i, 2 * c) * activate(at(vx, row, c + i, 2 * c), Activation::Gelu);
  store(y, vy);
}

void ReferenceKernels::geglu_backward(const GradSlot& dx, const Tensor& dy, const Tensor& x) {
  int64_t c = dy.dim(-1), rows = dy.numel() / c;
  Values vx = load(x), vdy = load(dy), vdx(vx.size());
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t i = 0; i < c; ++i) {
      double value = at(vx, row, i, 2 * c), gate = at(vx, row, c + i, 2 * c),
             d = at(vdy, row, i, c);
      at(vdx, row, i, 2 * c) = d * activate(gate, Activation::Gelu);
      at(vdx, row, c + i, 2 * c) = d * value * activate_derivative(gate, Activation::Gelu);
    }
  store(dx, std::move(vdx));
}

void ReferenceKernels::add(Tensor& y, const Tensor& a, const Tensor& b) {
  Values va = load(a), vb = load(b);
  for (size_t i = 0; i < va.size(); ++i) va[i] += vb[i];
  store(y, va);
}

void ReferenceKernels::add_rows(Tensor& y, const Tensor& x, const Tensor& rows) {
  Values vx = load(x), vrows = load(rows);
  for (size_t i = 0; i < vx.size(); ++i) vx[i] += vrows[i % vrows.size()];
  store(y, vx);
}

void ReferenceKernels::sum_to_rows(const GradSlot& drows, const Tensor& dy) {
  if (!drows) return;
  Values vdy = load(dy), sums(size_t(drows.tensor.numel()));
  for (size_t i = 0; i < vdy.size(); ++i) sums[i % sums.size()] += vdy[i];
  store(drows, std::move(sums));
}

void ReferenceKernels::sum_per_image(const GradSlot& dt, const Tensor& dy) {
  if (!dt) return;
  int64_t c = dt.tensor.dim(-1), images = dt.tensor.numel() / c, rows = dy.numel() / c;
  Values vdy = load(dy), sums(size_t(images * c));
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t i = 0; i < c; ++i) at(sums, row / (rows / images), i, c) += at(vdy, row, i, c);
  store(dt, std::move(sums));
}

void ReferenceKernels::scale(Tensor& y, const Tensor& x, double factor) {
  Values values = load(x);
  for (double& value : values) value *= factor;
  store(y, values);
}

void ReferenceKernels::accumulate(Tensor& y, const Tensor& x) { store(GradSlot{y, true}, load(x)); }

}  // namespace spindle::reference
