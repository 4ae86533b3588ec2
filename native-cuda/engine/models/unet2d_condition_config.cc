#include "models/unet2d_condition_config.h"

#include <tuple>

#include "models/config_fields.h"

namespace spindle {

namespace {

std::vector<bool> cross_attention(const Config& config,
                                  const std::string& key,
                                  const std::string& direction,
                                  const std::vector<std::string>& fallback,
                                  size_t levels) {
  std::string plain = direction + "Block2D", crossing = "CrossAttn" + plain;
  std::vector<std::string> types = config.has(key) ? config.strings(key) : fallback;
  std::vector<bool> cross;
  for (const std::string& type : types) {
    if (type != crossing && type != plain)
      config.refuse(key, cat(crossing, " or ", plain, " in every place"));
    cross.push_back(type == crossing);
  }
  if (cross.size() != levels)
    config.refuse(key, cat(levels, " values, one per entry of block_out_channels"));
  return cross;
}

// A number, or height and width; null as where it is absent.
std::pair<int64_t, int64_t> sample_size(const Config& config) {
  if (!config.has("sample_size")) return {64, 64};
  if (!config.raw("sample_size").is_array()) {
    int64_t side = positive(config, "sample_size", 64);
    return {side, side};
  }
  std::vector<int64_t> sides = config.integers("sample_size");
  if (sides.size() != 2 || sides[0] < 1 || sides[1] < 1)
    config.refuse("sample_size", "a positive number or two (height and width)");
  return {sides[0], sides[1]};
}

void refuse_unsupported(const Config& config) {
  config.only("_class_name", {"UNet2DConditionModel"});
  for (const char* key :
       {"num_attention_heads", "encoder_hid_dim", "encoder_hid_dim_type", "class_embed_type",
        "num_class_embeds", "reverse_transformer_layers_per_block", "time_embedding_act_fn",
        "timestep_post_act", "time_cond_proj_dim", "cross_attention_norm", "quantization_config"})
    config.only(key, {});
  for (const char* key :
       {"center_input_sample", "only_cross_attention", "mid_block_only_cross_attention",
        "dual_cross_attention", "resnet_skip_time_act", "class_embeddings_concat"})
    config.only(key, {false});
  for (const char* key :
       {"downsample_padding", "mid_block_scale_factor", "resnet_out_scale_factor"})
    config.only(key, {1, 1.0});
  config.only("dropout", {0, 0.0});
  config.only("conv_in_kernel", {3});
  config.only("conv_out_kernel", {3});
  config.only("act_fn", {"silu", "swish"});  // one function with two names
  config.only("mid_block_type", {"UNetMidBlock2DCrossAttn"});
  config.only("resnet_time_scale_shift", {"default"});
  config.only("time_embedding_type", {"positional"});
  config.only("attention_type", {"default"});
  // Scores and softmax are float32 in every precision, which is what upcast_attention asks for.
  config.only("upcast_attention", {false, true});
}

}  // namespace

UNet2DConditionConfig parse_unet2d_condition_config(const Config& config) {
  UNet2DConditionConfig c;
  c.block_out_channels = config.has("block_out_channels")
                             ? per_level(config, "block_out_channels", 0, 0)
                             : std::vector<int64_t>{320, 640, 1280, 1280};
  size_t levels = c.levels();
  std::tie(c.sample_height, c.sample_width) = sample_size(config);
  c.in_channels = positive(config, "in_channels", 4);
  c.out_channels = positive(config, "out_channels", 4);
  c.flip_sin_to_cos = config.boolean("flip_sin_to_cos", true);
  c.freq_shift = config.number("freq_shift", 0.0);
  c.down_cross_attention = cross_attention(
      config, "down_block_types", "Down",
      {"CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"},
      levels);
  c.up_cross_attention = cross_attention(
      config, "up_block_types", "Up",
      {"UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"}, levels);
  c.layers_per_block = per_level(config, "layers_per_block", levels, 2);
  c.norm_num_groups = positive(config, "norm_num_groups", 32);
  c.norm_eps = config.number("norm_eps", 1e-5);
  c.cross_attention_dim = positive(config, "cross_attention_dim", 1280);
  c.transformer_layers_per_block = per_level(config, "transformer_layers_per_block", levels, 1);
  c.attention_heads = per_level(config, "attention_head_dim", levels, 8);
  c.use_linear_projection = config.boolean("use_linear_projection", false);
  c.time_embedding_dim = config.has("time_embedding_dim")
                             ? positive(config, "time_embedding_dim", 0)
                             : 4 * c.block_out_channels[0];
  config.only("addition_embed_type", {Json(), "text_time"});
  if (config.has("addition_embed_type")) {
    for (const char* key : {"addition_time_embed_dim", "projection_class_embeddings_input_dim"})
      if (!config.has(key)) config.refuse(key, "a number, as addition_embed_type is text_time");
    c.addition_time_embed_dim = positive(config, "addition_time_embed_dim", 1);
    c.projection_class_embeddings_input_dim =
        positive(config, "projection_class_embeddings_input_dim", 1);
  } else {
    config.only("addition_time_embed_dim", {});
    config.only("projection_class_embeddings_input_dim", {});
  }
  refuse_unsupported(config);
  return c;
}

}  // namespace spindle
