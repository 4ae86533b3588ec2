// What works element by element, and the sums that go back from it.
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

void ReferenceKernels::run(const ActivationForward& op) {
  Values values = load(op.x);
  for (double& value : values) value = activate(value, op.kind);
  store(op.y, values);
}

void ReferenceKernels::run(const ActivationBackward& op) {
  Values vx = load(op.x), vdy = load(op.dy);
  for (size_t i = 0; i < vx.size(); ++i) vdy[i] *= activate_derivative(vx[i], op.kind);
  store(op.dx, std::move(vdy));
}

// x (..., 2C) = [value, gate], y (..., C)
void ReferenceKernels::run(const GegluForward& op) {
  int64_t c = op.y.dim(-1), rows = op.y.numel() / c;
  Values vx = load(op.x), vy(size_t(op.y.numel()));
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t i = 0; i < c; ++i)
      at(vy, row, i, c) =
          at(vx, row, i, 2 * c) * activate(at(vx, row, c + i, 2 * c), Activation::Gelu);
  store(op.y, vy);
}

void ReferenceKernels::run(const GegluBackward& op) {
  int64_t c = op.dy.dim(-1), rows = op.dy.numel() / c;
  Values vx = load(op.x), vdy = load(op.dy), vdx(vx.size());
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t i = 0; i < c; ++i) {
      double value = at(vx, row, i, 2 * c), gate = at(vx, row, c + i, 2 * c),
             d = at(vdy, row, i, c);
      at(vdx, row, i, 2 * c) = d * activate(gate, Activation::Gelu);
      at(vdx, row, c + i, 2 * c) = d * value * activate_derivative(gate, Activation::Gelu);
    }
  store(op.dx, std::move(vdx));
}

void ReferenceKernels::run(const Add& op) {
  Values va = load(op.a), vb = load(op.b);
  for (size_t i = 0; i < va.size(); ++i) va[i] += vb[i];
  store(op.y, va);
}

void ReferenceKernels::run(const AddRows& op) {
  Values vx = load(op.x), vrows = load(op.rows);
  for (size_t i = 0; i < vx.size(); ++i) vx[i] += vrows[i % vrows.size()];
  store(op.y, vx);
}

void ReferenceKernels::run(const SumToRows& op) {
  if (!op.drows) return;
  Values vdy = load(op.dy), sums(size_t(op.drows.tensor.numel()));
  for (size_t i = 0; i < vdy.size(); ++i) sums[i % sums.size()] += vdy[i];
  store(op.drows, std::move(sums));
}

void ReferenceKernels::run(const SumPerImage& op) {
  if (!op.dt) return;
  int64_t c = op.dt.tensor.dim(-1), images = op.dt.tensor.numel() / c, rows = op.dy.numel() / c;
  Values vdy = load(op.dy), sums(size_t(images * c));
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t i = 0; i < c; ++i) at(sums, row / (rows / images), i, c) += at(vdy, row, i, c);
  store(op.dt, std::move(sums));
}

void ReferenceKernels::run(const Scale& op) {
  Values values = load(op.x);
  for (double& value : values) value *= op.factor;
  store(op.y, values);
}

void ReferenceKernels::run(const Accumulate& op) { store(GradSlot{op.y, true}, load(op.x)); }

void ReferenceKernels::run(const Cast& op) { store(op.y, load(op.x)); }

}  // namespace spindle::reference
