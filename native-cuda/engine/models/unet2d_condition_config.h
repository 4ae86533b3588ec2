// Options of diffusers' UNet2DConditionModel that are supported; the rest is refused when the
// config is read.
#pragma once
#include <string>
#include <vector>

#include "io/config.h"

namespace spindle {

struct UNet2DConditionConfig {
  int64_t sample_height = 64, sample_width = 64;  // of the latents it was made for
  int64_t in_channels = 4, out_channels = 4;
  bool flip_sin_to_cos = true;
  double freq_shift = 0;
  std::vector<bool> down_cross_attention, up_cross_attention;  // per block: CrossAttn… or plain
  std::vector<int64_t> block_out_channels;
  std::vector<int64_t> layers_per_block;
  int64_t norm_num_groups = 32;
  double norm_eps = 1e-5;
  int64_t cross_attention_dim = 1280;
  std::vector<int64_t> transformer_layers_per_block;  // per down block
  std::vector<int64_t>
      attention_heads;  // the file's attention_head_dim, which is the number of heads
  bool use_linear_projection = false;
  int64_t time_embedding_dim = 0;
  int64_t addition_time_embed_dim = 0;  // 0: no text_time embedding
  int64_t projection_class_embeddings_input_dim = 0;

  bool text_time() const { return addition_time_embed_dim > 0; }
  size_t levels() const { return block_out_channels.size(); }
};

UNet2DConditionConfig parse_unet2d_condition_config(const Config& config);

}  // namespace spindle
