// UNet2DConditionModel of diffusers: predicts noise (or velocity) from a noisy image, a timestep
// and text embeddings.
#pragma once
#include "models/unet2d_blocks.h"
#include "models/unet2d_condition_config.h"
#include "nn/timestep_embedding.h"

namespace spindle {

struct UNetInputs {
  Tensor sample;                      // (B, H, W, in_channels) in the compute precision
  std::vector<float> timesteps = {};  // B
  Tensor text;                        // (B, T, cross_attention_dim) in the compute precision
  nn::KeysValues* kept =
      nullptr;  // of the text, for passes without gradients that have it in common
  // Only models with the text_time embedding (SDXL):
  Tensor text_embeds = {};           // (B, P) in the compute precision
  std::vector<float> time_ids = {};  // B rows of sizes and crops
  // (B) and B rows, float32, in the place of `timesteps` and `time_ids`: a captured pass reads them
  // anew
  Tensor timestep_values = {}, time_id_values = {};
};

class UNet2DConditionModel {
 public:
  UNet2DConditionModel(const Scope& scope, const UNet2DConditionConfig& config);
  const UNet2DConditionConfig& config() const { return config_; }
  // -> (B, H, W, out_channels)
  Tensor forward(Tape& tape, const UNetInputs& in) const;

 private:
  Tensor time_embedding(Tape& tape, const UNetInputs& in) const;
  void check(const UNetInputs& in) const;

  UNet2DConditionConfig config_;
  nn::Conv2d conv_in_;
  nn::TimestepEmbedding time_embedding_;
  std::optional<nn::TimestepEmbedding> add_embedding_;
  std::vector<DownBlock> down_blocks_;
  std::optional<MidBlock> mid_block_;
  std::vector<UpBlock> up_blocks_;
  nn::GroupNorm conv_norm_out_;
  nn::Conv2d conv_out_;
};

}  // namespace spindle
