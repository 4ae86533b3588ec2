// AdamW over a store's flat arena: two moments of its size.
#pragma once
#include <array>
#include <cmath>

#include "autograd/parameter.h"

namespace spindle {

struct AdamWOptions {
  double beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8, weight_decay = 0.01;
};

class AdamW {
 public:
  // Moments are zero.
  AdamW(ParameterStore& store, const AdamWOptions& options)
      : store_(store),
        options_(options),
        m_(store.device().zeros(store.master().shape(), DType::F32)),
        v_(store.device().zeros(store.master().shape(), DType::F32)) {}

  // What a step's scalars are before clipping; `step` from 1, `ema_weight` of the new weights in
  // their average.
  std::array<double, kStepScalars> scalars(double learning_rate,
                                           int64_t step,
                                           double ema_weight) const {
    std::array<double, kStepScalars> s{};
    s[kLearningRate] = learning_rate;
    s[kStep] = double(step);
    s[kCorrection1] = 1 - std::pow(options_.beta1, double(step));
    s[kCorrection2] = 1 - std::pow(options_.beta2, double(step));
    s[kEmaWeight] = ema_weight;
    return s;
  }
  // One update of every weight, of their average (empty: none) and of their rounded copies, unless
  // the gradient is not finite; `scalars` after ClipGradient.
  void step(const Tensor& scalars, const Tensor& ema) {
    store_.device().step_kernels().run(
        OptimizerStep{.arenas = {.w = store_.master(),
                                 .m = m_,
                                 .v = v_,
                                 .grad = store_.gradient(),
                                 .ema = ema,
                                 .bf16 = store_.bf16_shadow()},
                      .scalars = scalars,
                      .args = {.beta1 = options_.beta1,
                               .beta2 = options_.beta2,
                               .epsilon = options_.epsilon,
                               .weight_decay = options_.weight_decay}});
  }
  const Tensor& m() const { return m_; }
  const Tensor& v() const { return v_; }

 private:
  ParameterStore& store_;
  AdamWOptions options_;
  Tensor m_, v_;
};

}  // namespace spindle
