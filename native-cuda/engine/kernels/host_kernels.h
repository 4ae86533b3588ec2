// What the backends share whose tensors lie in the host's own memory: moving bytes, and the few
// sums of a training step that take no time.
#pragma once
#include "kernels/kernels.h"

namespace spindle {

class HostKernels : public Kernels {
 public:
  void upload(const Tensor& y, const void* host) override;
  void download(void* host, const Tensor& x) override;
  void copy(const Tensor& y, const Tensor& x) override;
  void clear(const Tensor& y) override;
  void normal_noise(Tensor& noise, const Philox& philox, Draw draw, const Tensor& places) override;
  void diffuse(Tensor& noisy,
               Tensor& target,
               const Tensor& x,
               const Tensor& noise,
               const Tensor& coefficients) override;
  void sampler_input(Tensor& input, Tensor& timesteps, const SamplerTensors& sampler) override;
  void sampler_step(const SamplerTensors& sampler,
                    const Tensor& output,
                    const Tensor& noise) override;
  void clip_gradient(Tensor& scalars, const Tensor& gradient, double max_norm) override;
  void optimizer_step(const OptimizerArenas& arenas,
                      const Tensor& scalars,
                      const AdamWArgs& args) override;
};

}  // namespace spindle
