#include "kernels/reference/reference_kernels.h"
#include "kernels/reference/values.h"

namespace spindle::reference {

double ReferenceKernels::sum_of_squares(const Tensor& x) {
  double sum = 0;
  for (double value : load(x)) sum += value * value;
  return sum;
}

void ReferenceKernels::adamw(Tensor& w,
                             Tensor& m,
                             Tensor& v,
                             const Tensor& grad,
                             const AdamWArgs& args) {
  Values vw = load(w), vm = load(m), vv = load(v), vg = load(grad);
  double correction1 = 1 - std::pow(args.beta1, double(args.step)),
         correction2 = 1 - std::pow(args.beta2, double(args.step));
  for (size_t i = 0; i < vw.size(); ++i) {
    double g = vg[i] * args.grad_scale;
    vm[i] = args.beta1 * vm[i] + (1 - args.beta1) * g;
    vv[i] = args.beta2 * vv[i] + (1 - args.beta2) * g * g;
    double step = vm[i] / correction1 / (std::sqrt(vv[i] / correction2) + args.epsilon);
    vw[i] -= args.learning_rate * (args.weight_decay * vw[i] + step);
  }
  store(w, vw);
  store(m, vm);
  store(v, vv);
}

void ReferenceKernels::lerp(Tensor& y, const Tensor& x, double weight) {
  Values vy = load(y), vx = load(x);
  for (size_t i = 0; i < vy.size(); ++i) vy[i] += weight * (vx[i] - vy[i]);
  store(y, vy);
}

}  // namespace spindle::reference
