// CLIP of transformers: text tower, vision tower, projections.
#pragma once
#include <optional>
#include <vector>

#include "models/clip_config.h"
#include "nn/conv2d.h"
#include "nn/linear.h"
#include "nn/norm.h"

namespace spindle {

class ClipEncoderLayer {
 public:
  ClipEncoderLayer(const Scope& scope, const ClipTowerConfig& config, bool causal);
  // x (B, T, C)
  Tensor operator()(Tape& tape, Tensor x) const;

 private:
  nn::Linear q_proj_, k_proj_, v_proj_, out_proj_;
  nn::LayerNorm layer_norm1_;
  nn::Linear fc1_, fc2_;
  nn::LayerNorm layer_norm2_;
  AttentionArgs attention_;
  Activation activation_;
};

struct ClipTextOutput {
  Tensor last_hidden_state;  // (B, T, C), after the final norm
  Tensor penultimate;        // (B, T, C), before the last layer
  Tensor pooled;  // (B, C), last_hidden_state at the end token; (B, projection_dim) where the model
                  // projects it
};

class ClipTextTower {
 public:
  ClipTextTower(const Scope& scope, const ClipTextConfig& config);
  ClipTextOutput forward(Tape& tape,
                         const std::vector<int32_t>& ids,
                         int64_t batch,
                         DType dtype) const;

 private:
  std::vector<int32_t> end_rows(const std::vector<int32_t>& ids, int64_t batch) const;

  ClipTextConfig config_;
  Parameter* token_embedding_;
  Parameter* position_embedding_;
  std::vector<ClipEncoderLayer> layers_;
  nn::LayerNorm final_layer_norm_;
};

class ClipVisionTower {
 public:
  ClipVisionTower(const Scope& scope, const ClipVisionConfig& config);
  // pixels (B, image_size, image_size, channels) -> (B, C), the class token after the final norm
  Tensor forward(Tape& tape, const Tensor& pixels) const;

 private:
  ClipVisionConfig config_;
  Parameter* class_embedding_;
  nn::Conv2d patch_embedding_;
  Parameter* position_embedding_;
  nn::LayerNorm pre_layrnorm_;
  std::vector<ClipEncoderLayer> layers_;
  nn::LayerNorm post_layernorm_;
};

// A text tower alone, as diffusers pipelines have it.
class ClipTextModel {
 public:
  ClipTextModel(const Scope& scope, const ClipTextConfig& config);
  const ClipTextConfig& config() const { return config_; }
  ClipTextOutput forward(Tape& tape,
                         const std::vector<int32_t>& ids,
                         int64_t batch,
                         DType dtype) const;

 private:
  ClipTextConfig config_;
  ClipTextTower text_model_;
  std::optional<nn::Linear> text_projection_;
};

// Newer libraries save a lone text tower without the prefix "text_model.". Where the pooled state
// is not projected, a projection in the file is left out.
std::string rename_clip_text_key(const std::string& key);
std::string rename_projected_clip_text_key(const std::string& key);

class ClipModel {
 public:
  ClipModel(const Scope& scope, const ClipConfig& config);
  const ClipConfig& config() const { return config_; }
  // Projected and L2-normalised, float32 (B, projection_dim).
  Tensor image_embeds(Tape& tape, const Tensor& pixels) const;
  Tensor text_embeds(Tape& tape, const std::vector<int32_t>& ids, int64_t batch, DType dtype) const;
  // Once, when the weights are there.
  void loaded(Device& device);
  // exp(logit_scale)
  double logit_scale() const { return logit_scale_value_; }

 private:
  ClipConfig config_;
  ClipTextTower text_model_;
  ClipVisionTower vision_model_;
  nn::Linear text_projection_, visual_projection_;
  Parameter* logit_scale_;
  double logit_scale_value_ = 1;
};

}  // namespace spindle
