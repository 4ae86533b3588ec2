#include "sample/guided_model.h"

#include "models/layout.h"

namespace spindle {

GuidedModel::GuidedModel(Unet& unet, const SampleRequest& r, int64_t count)
    : unet_(unet), r_(r), count_(count), guided_(r.guided()) {
  Device& device = unet.device;
  if (r.cond_pooled) {
    std::vector<float> ids;
    for (int64_t i = 0; i < copies() * count; ++i)
      ids.insert(ids.end(), r.time_ids.begin(), r.time_ids.end());
    time_ids_ = from_floats(device, ids, {int64_t(ids.size())});
  }
  Shape shape{copies() * count, unet.model.config().in_channels, r.height, r.width};
  input_ = device.empty(shape, DType::F32);
  timesteps_ = device.empty({copies() * count}, DType::F32);
  output_ = device.empty(shape, DType::F32);
}

void GuidedModel::take(int64_t first) {
  set(text_, r_.cond, r_.uncond, first);
  if (r_.cond_pooled) set(pooled_, r_.cond_pooled, r_.uncond_pooled, first);
}

// Empty prompts first, then the images' own: (2B, …), or (B, …) without guidance.
void GuidedModel::set(Tensor& rows, const Tensor& cond, const Tensor& uncond, int64_t first) {
  Device& device = unet_.device;
  std::vector<int64_t> dims = cond.shape().dims();
  int64_t row = cond.numel() / dims[0];
  dims[0] = copies() * count_;
  Tensor all = device.empty(Shape(dims), DType::F32);
  int64_t out = 0;
  if (guided_)
    for (int64_t i = 0; i < count_; ++i, out += row)
      device.memory().copy(all.slice(out, {row}), uncond.slice(0, {row}));
  device.memory().copy(all.slice(out, {count_ * row}), cond.slice(first * row, {count_ * row}));
  Tensor values = to_dtype(device, all, unet_.store.compute());
  if (rows)
    device.memory().copy(rows, values);
  else
    rows = values;
}

void GuidedModel::forward(nn::KeysValues& kept) {
  Device& device = unet_.device;
  Tape tape(device, false);
  Tensor output =
      unet_.model.forward(tape, {.sample = to_nhwc(device, input_, unet_.store.compute()),
                                 .text = text_,
                                 .kept = &kept,
                                 .text_embeds = pooled_,
                                 .timestep_values = timesteps_,
                                 .time_id_values = time_ids_});
  device.kernels().run(NhwcToNchw{.y = output_, .x = output});
}

}  // namespace spindle
