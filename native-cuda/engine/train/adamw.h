// AdamW over a store's flat arena: two moments of its size.
#pragma once
#include "autograd/parameter.h"

namespace spindle {

struct AdamWOptions {
  double beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8, weight_decay = 0.01;
};

class AdamW {
 public:
  // Moments are zero.
  AdamW(ParameterStore& store, const AdamWOptions& options)
      : store_(store), options_(options), m_(store.device().zeros(store.master().shape(), DType::F32)), v_(store.device().zeros(store.master().shape(), DType::F32)) {}

  // One update of every weight; the caller commits. `step` from 1; `grad_scale` multiplies the gradient first.
  void step(double learning_rate, int64_t step, double grad_scale) {
    store_.device().kernels().adamw(store_.master(), m_, v_, store_.gradient(),
                                    {.learning_rate = learning_rate, .beta1 = options_.beta1, .beta2 = options_.beta2, .epsilon = options_.epsilon, .weight_decay = options_.weight_decay, .step = step, .grad_scale = grad_scale});
  }
  const Tensor& m() const { return m_; }
  const Tensor& v() const { return v_; }

 private:
  ParameterStore& store_;
  AdamWOptions options_;
  Tensor m_, v_;
};

}  // namespace spindle
