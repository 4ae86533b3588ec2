// What the backends share whose tensors lie in the host's own memory: moving bytes, and the kernels
// of a step.
#pragma once
#include "kernels/backend.h"

namespace spindle {

class HostKernels : public Backend {
 public:
  void upload(const Tensor& y, const void* host) override;
  void download(void* host, const Tensor& x) override;
  void copy(const Tensor& y, const Tensor& x) override;
  void clear(const Tensor& y) override;

  using Backend::run;
  SPINDLE_STEP_KERNELS(SPINDLE_OVERRIDE_KERNEL)

 protected:
  // A step's scalars, as the host knows them.
  struct AdamWStep {
    AdamWArgs args;
    double learning_rate;
    int64_t number;         // from 1, for bias correction
    double gradient_scale;  // gradients are multiplied by this first (clipping)
  };

 private:
  // Passes over flat float32 arenas that clipping and the optimiser are made of.
  virtual double sum_of_squares(const Tensor& x) = 0;
  // One pass: scale the gradient, moments, decoupled weight decay, weight.
  virtual void adamw(const OptimizerArenas& arenas, const AdamWStep& step) = 0;
  virtual void lerp(const Tensor& y, const Tensor& x, double weight) = 0;  // y += weight * (x - y)
};

}  // namespace spindle
