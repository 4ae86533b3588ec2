#include "models/clip.h"

#include <algorithm>
#include <cmath>

namespace spindle {

ClipEncoderLayer::ClipEncoderLayer(const Scope& scope, const ClipTowerConfig& c, bool causal)
    : q_proj_(scope / "self_attn" / "q_proj", c.hidden_size, c.hidden_size),
      k_proj_(scope / "self_attn" / "k_proj", c.hidden_size, c.hidden_size),
      v_proj_(scope / "self_attn" / "v_proj", c.hidden_size, c.hidden_size),
      out_proj_(scope / "self_attn" / "out_proj", c.hidden_size, c.hidden_size),
      layer_norm1_(scope / "layer_norm1", c.hidden_size, c.layer_norm_eps),
      fc1_(scope / "mlp" / "fc1", c.hidden_size, c.intermediate_size),
      fc2_(scope / "mlp" / "fc2", c.intermediate_size, c.hidden_size),
      layer_norm2_(scope / "layer_norm2", c.hidden_size, c.layer_norm_eps),
      attention_{.heads = c.num_attention_heads, .causal = causal},
      activation_(c.activation) {}

Tensor ClipEncoderLayer::operator()(Tape& tape, Tensor x) const {
  Tensor h = layer_norm1_(tape, x);
  h = ops::attention(tape, q_proj_(tape, h), k_proj_(tape, h), v_proj_(tape, h), attention_);
  x = out_proj_(tape, h, x);
  h = ops::activation(tape, fc1_(tape, layer_norm2_(tape, x)), activation_);
  return fc2_(tape, h, x);
}

namespace {
std::vector<ClipEncoderLayer> layers(const Scope& scope,
                                     const ClipTowerConfig& config,
                                     bool causal) {
  std::vector<ClipEncoderLayer> all;
  for (int64_t i = 0; i < config.num_hidden_layers; ++i)
    all.emplace_back(scope / "encoder" / "layers" / i, config, causal);
  return all;
}
}  // namespace

ClipTextTower::ClipTextTower(const Scope& scope, const ClipTextConfig& c)
    : config_(c),
      token_embedding_(
          (scope / "embeddings" / "token_embedding")
              .parameter("weight", {c.vocab_size, c.tower.hidden_size}, ParameterKind::Vector)),
      position_embedding_((scope / "embeddings" / "position_embedding")
                              .parameter("weight",
                                         {c.max_position_embeddings, c.tower.hidden_size},
                                         ParameterKind::Vector)),
      layers_(layers(scope, c.tower, true)),
      final_layer_norm_(scope / "final_layer_norm", c.tower.hidden_size, c.tower.layer_norm_eps) {}

std::vector<int32_t> ClipTextTower::end_rows(const std::vector<int32_t>& ids, int64_t batch) const {
  int64_t length = int64_t(ids.size()) / batch;
  std::vector<int32_t> rows;
  for (int64_t b = 0; b < batch; ++b) {
    auto first = ids.begin() + b * length, last = first + length;
    auto end = config_.eos_token_id == 2 ? std::max_element(first, last)
                                         : std::find(first, last, int32_t(config_.eos_token_id));
    if (end == last) end = first;  // as the library's argmax over "no match anywhere" does
    rows.push_back(int32_t(end - ids.begin()));
  }
  return rows;
}

ClipTextOutput ClipTextTower::forward(Tape& tape,
                                      const std::vector<int32_t>& ids,
                                      int64_t batch,
                                      DType dtype) const {
  Tensor x = ops::token_embedding(tape, ids, batch, *token_embedding_, *position_embedding_, dtype);
  ClipTextOutput out;
  for (const ClipEncoderLayer& layer : layers_) {
    out.penultimate = x;
    x = layer(tape, x);
  }
  out.last_hidden_state = final_layer_norm_(tape, x);
  out.pooled = ops::gather_rows(tape, out.last_hidden_state, end_rows(ids, batch));
  return out;
}

ClipVisionTower::ClipVisionTower(const Scope& scope, const ClipVisionConfig& c)
    : config_(c),
      class_embedding_(
          (scope / "embeddings")
              .parameter("class_embedding", {c.tower.hidden_size}, ParameterKind::Vector)),
      patch_embedding_(scope / "embeddings" / "patch_embedding",
                       c.num_channels,
                       c.tower.hidden_size,
                       {.kernel = c.patch_size,
                        .args = {.stride = c.patch_size, .pad_before = 0, .pad_after = 0},
                        .bias = false}),
      position_embedding_(
          (scope / "embeddings" / "position_embedding")
              .parameter("weight", {c.patches() + 1, c.tower.hidden_size}, ParameterKind::Vector)),
      pre_layrnorm_(scope / "pre_layrnorm", c.tower.hidden_size, c.tower.layer_norm_eps),
      layers_(layers(scope, c.tower, false)),
      post_layernorm_(scope / "post_layernorm", c.tower.hidden_size, c.tower.layer_norm_eps) {}

Tensor ClipVisionTower::forward(Tape& tape, const Tensor& pixels) const {
  require(pixels.rank() == 4 && pixels.dim(1) == config_.image_size &&
              pixels.dim(2) == config_.image_size && pixels.dim(3) == config_.num_channels,
          "[clip] pixels: expected (B, ", config_.image_size, ", ", config_.image_size, ", ",
          config_.num_channels, "), got ", pixels.shape());
  Tensor x = ops::image_tokens(tape, patch_embedding_(tape, pixels), *class_embedding_,
                               *position_embedding_);
  x = pre_layrnorm_(tape, x);
  for (const ClipEncoderLayer& layer : layers_) x = layer(tape, x);
  std::vector<int32_t> rows;
  for (int64_t b = 0; b < x.dim(0); ++b) rows.push_back(int32_t(b * x.dim(1)));
  return post_layernorm_(tape, ops::gather_rows(tape, x, rows));
}

ClipTextModel::ClipTextModel(const Scope& scope, const ClipTextConfig& c)
    : config_(c), text_model_(scope / "text_model", c) {
  if (c.projection_dim > 0)
    text_projection_.emplace(scope / "text_projection", c.tower.hidden_size, c.projection_dim,
                             nn::LinearOptions{.bias = false});
}

ClipTextOutput ClipTextModel::forward(Tape& tape,
                                      const std::vector<int32_t>& ids,
                                      int64_t batch,
                                      DType dtype) const {
  ClipTextOutput out = text_model_.forward(tape, ids, batch, dtype);
  if (text_projection_) out.pooled = (*text_projection_)(tape, out.pooled);
  return out;
}

std::string rename_clip_text_key(const std::string& key) {
  return key == "text_projection.weight" ? "" : rename_projected_clip_text_key(key);
}

std::string rename_projected_clip_text_key(const std::string& key) {
  return key.starts_with("text_model.") || key == "text_projection.weight" ? key
                                                                           : "text_model." + key;
}

ClipModel::ClipModel(const Scope& scope, const ClipConfig& c)
    : config_(c),
      text_model_(scope / "text_model", c.text),
      vision_model_(scope / "vision_model", c.vision),
      text_projection_(scope / "text_projection",
                       c.text.tower.hidden_size,
                       c.projection_dim,
                       {.bias = false}),
      visual_projection_(scope / "visual_projection",
                         c.vision.tower.hidden_size,
                         c.projection_dim,
                         {.bias = false}),
      logit_scale_(scope.parameter("logit_scale", {}, ParameterKind::Vector)) {}

Tensor ClipModel::image_embeds(Tape& tape, const Tensor& pixels) const {
  return ops::l2_normalize(tape, visual_projection_(tape, vision_model_.forward(tape, pixels)));
}

Tensor ClipModel::text_embeds(Tape& tape,
                              const std::vector<int32_t>& ids,
                              int64_t batch,
                              DType dtype) const {
  return ops::l2_normalize(
      tape, text_projection_(tape, text_model_.forward(tape, ids, batch, dtype).pooled));
}

void ClipModel::loaded(Device& device) {
  logit_scale_value_ = std::exp(double(device.download<float>(logit_scale_->master)[0]));
}

}  // namespace spindle
