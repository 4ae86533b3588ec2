// The model's side of a sampling pass: its inputs for `count` images, twice as many with guidance
// (empty prompts first), and its output. All tensors keep their addresses from step to step and
// from pass to pass: what a device captured has them.
#pragma once
#include "sample/sample.h"

namespace spindle {

class GuidedModel {
 public:
  GuidedModel(Unet& unet, const SampleRequest& request, int64_t count);
  // The prompts of images `first` and on.
  void take(int64_t first);
  // output = model(input, timesteps); `kept` belongs to the prompts taken.
  void forward(nn::KeysValues& kept);

  int64_t copies() const { return guided_ ? 2 : 1; }
  Tensor& input() { return input_; }  // (copies * count, C, h, w) float32, scaled for the model
  Tensor& timesteps() { return timesteps_; }        // (copies * count) float32
  const Tensor& output() const { return output_; }  // as input

 private:
  void set(Tensor& rows, const Tensor& cond, const Tensor& uncond, int64_t first);

  Unet& unet_;
  const SampleRequest& r_;
  int64_t count_;
  bool guided_;
  Tensor text_, pooled_, time_ids_;  // pooled and its ids: empty without text_time embedding
  Tensor input_, timesteps_, output_;
};

}  // namespace spindle
