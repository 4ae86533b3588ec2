#include "models/clip_config.h"

#include "models/config_fields.h"

namespace spindle {

namespace {

// What any config of transformers may have, and no model here computes.
void refuse_unsupported(const Config& config) {
  for (const char* key :
       {"is_decoder", "is_encoder_decoder", "tie_encoder_decoder", "add_cross_attention"})
    config.only(key, {false});
  for (const char* key : {"cross_attention_hidden_size", "quantization_config", "per_layer_config"})
    config.only(key, {});
  if (config.raw("pruned_heads").is_object() && !config.raw("pruned_heads").members().empty())
    config.refuse("pruned_heads", "none");
}

ClipTowerConfig tower(const Config& config, const ClipTowerConfig& defaults) {
  ClipTowerConfig t = defaults;
  t.hidden_size = positive(config, "hidden_size", defaults.hidden_size);
  t.intermediate_size = positive(config, "intermediate_size", defaults.intermediate_size);
  t.num_hidden_layers = positive(config, "num_hidden_layers", defaults.num_hidden_layers);
  t.num_attention_heads = positive(config, "num_attention_heads", defaults.num_attention_heads);
  t.activation = config.choice("hidden_act", {"quick_gelu", "gelu"}, "quick_gelu") == "gelu"
                     ? Activation::Gelu
                     : Activation::QuickGelu;
  t.layer_norm_eps = config.number("layer_norm_eps", 1e-5);
  if (t.hidden_size % t.num_attention_heads != 0)
    config.refuse("num_attention_heads", cat("a divisor of hidden_size ", t.hidden_size));
  return t;
}

ClipTextConfig text(const Config& config) {
  ClipTextConfig c{.tower = tower(config, {.hidden_size = 512,
                                           .intermediate_size = 2048,
                                           .num_hidden_layers = 12,
                                           .num_attention_heads = 8})};
  c.vocab_size = positive(config, "vocab_size", 49408);
  c.max_position_embeddings = positive(config, "max_position_embeddings", 77);
  c.eos_token_id = config.integer("eos_token_id", 49407);
  refuse_unsupported(config);
  return c;
}

ClipVisionConfig vision(const Config& config) {
  ClipVisionConfig c{.tower = tower(config, {.hidden_size = 768,
                                             .intermediate_size = 3072,
                                             .num_hidden_layers = 12,
                                             .num_attention_heads = 12})};
  c.num_channels = positive(config, "num_channels", 3);
  c.image_size = positive(config, "image_size", 224);
  c.patch_size = positive(config, "patch_size", 32);
  if (c.patch_size > c.image_size)
    config.refuse("patch_size", cat("at most image_size ", c.image_size));
  refuse_unsupported(config);
  return c;
}

// A tower's part of a CLIP model's config. Old files say it twice: the library fills the second one
// up with its defaults, and lets all of that win.
Config tower_config(const Config& config, const std::string& key) {
  for (const std::string& name : {key + "_dict", key})
    if (config.has(name)) return config.nested(name);
  return {Json(Json::Object{}), config.label()};
}

}  // namespace

ClipTextConfig parse_clip_text_config(const Config& config) {
  ClipTextConfig c = text(config);
  // A whole CLIP model's config: the tower's keys would be read from the wrong place.
  config.only("text_config", {});
  // The lone tower's class alone says whether its pooled state passes the projection.
  const Json& classes = config.raw("architectures");
  if (classes.is_array() && classes == Json(Json::Array{"CLIPTextModelWithProjection"}))
    c.projection_dim = positive(config, "projection_dim", 512);
  return c;
}

ClipConfig parse_clip_config(const Config& config) {
  ClipConfig c{.text = text(tower_config(config, "text_config")),
               .vision = vision(tower_config(config, "vision_config"))};
  c.projection_dim = positive(config, "projection_dim", 512);
  refuse_unsupported(config);
  return c;
}

}  // namespace spindle
