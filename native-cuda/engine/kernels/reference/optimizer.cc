// Sums of squares, AdamW and the moving average over flat arenas.
#include "kernels/reference/reference_kernels.h"
#include "kernels/reference/values.h"

namespace spindle::reference {

double ReferenceKernels::sum_of_squares(const Tensor& x) {
  double sum = 0;
  for (double value : load(x)) sum += value * value;
  return sum;
}

void ReferenceKernels::adamw(const OptimizerArenas& a, const AdamWStep& step) {
  const AdamWArgs& args = step.args;
  Values vw = load(a.w), vm = load(a.m), vv = load(a.v), vg = load(a.grad);
  double correction1 = 1 - std::pow(args.beta1, double(step.number)),
         correction2 = 1 - std::pow(args.beta2, double(step.number));
  for (size_t i = 0; i < vw.size(); ++i) {
    double g = vg[i] * step.gradient_scale;
    vm[i] = args.beta1 * vm[i] + (1 - args.beta1) * g;
    vv[i] = args.beta2 * vv[i] + (1 - args.beta2) * g * g;
    double change = vm[i] / correction1 / (std::sqrt(vv[i] / correction2) + args.epsilon);
    vw[i] -= step.learning_rate * (args.weight_decay * vw[i] + change);
  }
  store(a.w, vw);
  store(a.m, vm);
  store(a.v, vv);
}

void ReferenceKernels::lerp(const Tensor& y, const Tensor& x, double weight) {
  Values vy = load(y), vx = load(x);
  for (size_t i = 0; i < vy.size(); ++i) vy[i] += weight * (vx[i] - vy[i]);
  store(y, vy);
}

}  // namespace spindle::reference
