// Small models with random weights, for tests.
#pragma once
#include "bench/models.h"
#include "core/rng.h"

namespace tiny {

using namespace spindle;

inline const char* const kUnet =
    R"({"sample_size":8,"block_out_channels":[8,16],"layers_per_block":1,"cross_attention_dim":12,"attention_head_dim":2,"norm_num_groups":4,
  "down_block_types":["CrossAttnDownBlock2D","DownBlock2D"],"up_block_types":["UpBlock2D","CrossAttnUpBlock2D"]})";
inline const char* const kDdim =
    R"({"_class_name":"DDIMScheduler","num_train_timesteps":1000,"beta_start":0.00085,"beta_end":0.012,"beta_schedule":"scaled_linear","clip_sample":false,"set_alpha_to_one":false,"steps_offset":1})";

inline std::unique_ptr<Unet> unet(Device& device, const LoadPrecision& precision = {}) {
  return random_unet(device, kUnet, precision);
}

// Standard normal, the same for the same number.
inline Tensor random(Device& device, const Shape& shape, uint32_t number) {
  Tensor t = device.empty(shape, DType::F32);
  std::vector<float> values(size_t(t.numel()));
  Philox(3, 0).normal(values.data(), t.numel(), number, 0, Draw::Test);
  device.upload(t, values.data());
  return t;
}

inline std::vector<float> floats(const Tensor& t) { return {t.f32(), t.f32() + t.numel()}; }
inline std::vector<float> floats(Device& device, const Tensor& t) {
  return device.download<float>(t);
}

}  // namespace tiny
