// ImageReward: BLIP's vision tower, a BERT that reads the prompt and looks at the image in every
// layer, and linear layers without activations on its first token (Xu et al., arXiv 2304.05977).
// Tensor names are those of the published checkpoint.
#pragma once
#include <vector>

#include "models/bert.h"
#include "models/blip_vision.h"
#include "models/loaded.h"

namespace spindle {

struct ImageRewardConfig {
  ClipVisionConfig vision;
  BertConfig text;
  std::vector<int64_t>
      mlp;  // widths: of BERT's states, then of every layer's output; the last is 1
  double mean = 0, std = 1;  // reward = (mlp - mean) / std
};
// {"vision": {hidden_size, layers, heads, image_size, patch_size, intermediate_size,
// layer_norm_eps}, "text": {vocab_size, hidden_size, layers, heads, intermediate_size,
// max_position_embeddings, layer_norm_eps}, "mlp": [...], "mean", "std"}; what is left out is as
// published.
ImageRewardConfig parse_image_reward_config(const Config& config);
// The published checkpoint's names: one fused matrix for queries, keys and values of the vision
// tower; heads of BLIP's own training are left out.
FileLayout image_reward_layout(const std::string& key);

class ImageRewardModel {
 public:
  ImageRewardModel(const Scope& scope, const ImageRewardConfig& config);
  const ImageRewardConfig& config() const { return config_; }
  // pixels (B, image_size, image_size, 3) -> (B, 1 + patches, C)
  Tensor image_embeds(Tape& tape, const Tensor& pixels) const {
    return visual_encoder_.forward(tape, pixels);
  }
  // Texts of one length, ids (B * T), with their images' embeddings -> the first token's state (B,
  // C)
  Tensor text_feature(Tape& tape, const std::vector<int32_t>& ids, const Tensor& images) const;
  // (B, C) -> (B, 1), before mean and standard deviation; float32 where the states are bfloat16
  Tensor score(Tape& tape, const Tensor& feature) const;

 private:
  ImageRewardConfig config_;
  BlipVisionTower visual_encoder_;
  BertModel text_encoder_;
  std::vector<nn::Linear> layers_;
};

using ImageReward = Loaded<ImageRewardModel>;
std::unique_ptr<ImageReward> load_image_reward(Device& device,
                                               const ModelSource& source,
                                               const LoadPrecision& precision);

struct ImageRewards {
  std::vector<float> rewards;   // (B)
  std::vector<float> features;  // (B, C)
  Tensor image_embeds;          // (B, 1 + patches, C), float32
};
// pixels (B, 3, H, W), preprocessed; ids and mask (B, T), the mask ones and then zeros.
ImageRewards image_reward(ImageReward& model,
                          const Tensor& pixels,
                          const std::vector<int32_t>& ids,
                          const std::vector<int32_t>& mask);

}  // namespace spindle
