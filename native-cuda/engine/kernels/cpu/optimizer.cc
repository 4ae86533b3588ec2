// One pass over flat arenas: sums of squares in blocks of a fixed size, AdamW, the moving average.
#include <cmath>

#include "kernels/cpu/cpu_kernels.h"

namespace spindle::cpu {

namespace {
constexpr int64_t kGrain = 65536;
}

double CpuKernels::sum_of_squares(const Tensor& x) {
  int64_t n = x.numel();
  std::vector<double> partial(size_t(divide_up(n, kGrain)));
  context_.pieces(n, kGrain, [&](int64_t a, int64_t b, int) {
    partial[size_t(a / kGrain)] = context_.simd.sum_of_squares(x.f32() + a, b - a);
  });
  double total = 0;
  for (double p : partial) total += p;
  return total;
}

void CpuKernels::adamw(const OptimizerArenas& a, const AdamWStep& step) {
  const AdamWArgs& args = step.args;
  double correction1 = 1 - std::pow(args.beta1, double(step.number)),
         correction2 = 1 - std::pow(args.beta2, double(step.number));
  float step_size = float(step.learning_rate / correction1),
        inv_sqrt = float(1 / std::sqrt(correction2)),
        decay = float(1 - step.learning_rate * args.weight_decay);
  // 1 - beta in double: 1 - 0.999f is off by 1e-5.
  AdamWCall call{.grad_scale = float(step.gradient_scale),
                 .beta1 = float(args.beta1),
                 .one_minus_beta1 = float(1 - args.beta1),
                 .beta2 = float(args.beta2),
                 .one_minus_beta2 = float(1 - args.beta2),
                 .step_size = step_size,
                 .inv_sqrt_correction = inv_sqrt,
                 .epsilon = float(args.epsilon),
                 .decay = decay};
  context_.pieces(a.w.numel(), kGrain, [&](int64_t first, int64_t end, int) {
    context_.simd.adamw(a.w.f32() + first, a.m.f32() + first, a.v.f32() + first,
                        a.grad.f32() + first, end - first, call);
  });
}

void CpuKernels::lerp(const Tensor& y, const Tensor& x, double weight) {
  context_.pieces(y.numel(), kGrain, [&](int64_t a, int64_t b, int) {
    context_.simd.lerp(y.f32() + a, x.f32() + a, float(weight), b - a);
  });
}

}  // namespace spindle::cpu
