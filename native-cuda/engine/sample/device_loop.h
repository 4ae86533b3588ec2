// The sampling loop where tensors lie in a device's memory: a step (input, model, guidance, the
// scheduler's step) is one piece of work whose scalars are the device's own, so that it is captured
// once and replayed, without a word from the host in between.
#pragma once
#include <deque>

#include "autograd/graphed_step.h"
#include "core/rng.h"
#include "sample/guided_model.h"
#include "sample/scheduler.h"

namespace spindle {

// Passes of `count` images each.
class DeviceLoop {
 public:
  // Timesteps are set. The request outlives the loop.
  DeviceLoop(Unet& unet, const SampleRequest& request, const Scheduler& scheduler, int64_t count);
  // Images `first` and on, from their generators' noise to latents (count, C, h, w). `done` is
  // called after every step that the device has finished; it and `cancel` are looked at while at
  // most kAhead further steps are under way.
  void run(int64_t first,
           std::vector<TorchGenerator>& generators,
           const Tensor& latents,
           const CancelToken* cancel,
           const std::function<void()>& done);

  static constexpr size_t kAhead = 2;

 private:
  void step(nn::KeysValues& kept);

  Unet& unet_;
  const SampleRequest& request_;
  const Scheduler& scheduler_;
  int64_t calls_, values_;
  GraphedStep graphed_;  // before the tensors that come from its pool
  GuidedModel model_;
  SamplerTensors sampler_;
  Tensor noise_;             // empty where the scheduler draws none
  std::vector<bool> noisy_;  // steps that draw some
  nn::KeysValues kept_;
  bool began_ = false;
};

}  // namespace spindle
