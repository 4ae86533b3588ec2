// Options of transformers' CLIP configs that are supported; the rest is refused when the config is
// read.
#pragma once
#include "io/config.h"
#include "kernels/kernels.h"

namespace spindle {

struct ClipTowerConfig {
  int64_t hidden_size, intermediate_size, num_hidden_layers, num_attention_heads;
  Activation activation = Activation::QuickGelu;
  double layer_norm_eps = 1e-5;
};

struct ClipTextConfig {
  ClipTowerConfig tower;
  int64_t vocab_size = 49408;
  int64_t max_position_embeddings = 77;
  int64_t eos_token_id = 49407;  // 2: an old file, where the largest id marks the end
  int64_t projection_dim = 0;    // of the pooled state; 0: not projected
};

struct ClipVisionConfig {
  ClipTowerConfig tower;
  int64_t num_channels = 3, image_size = 224, patch_size = 32;
  int64_t patches() const { return (image_size / patch_size) * (image_size / patch_size); }
};

struct ClipConfig {
  ClipTextConfig text;
  ClipVisionConfig vision;
  int64_t projection_dim = 512;
};

ClipTextConfig parse_clip_text_config(const Config& config);
ClipConfig parse_clip_config(const Config& config);

}  // namespace spindle
