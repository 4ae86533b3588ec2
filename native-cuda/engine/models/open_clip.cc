#include "models/open_clip.h"

#include <utility>

#include "io/safetensors.h"

namespace spindle {

namespace {

// Text after `prefix`, or nothing.
bool strip(std::string& key, const std::string& prefix) {
  if (!key.starts_with(prefix)) return false;
  key.erase(0, prefix.size());
  return true;
}

// "3.ln_1.weight" of a tower's resblocks.
FileLayout block(const std::string& layers, const std::string& key) {
  size_t dot = key.find('.');
  if (dot == std::string::npos) return {{key}};
  std::string layer = layers + key.substr(0, dot + 1), rest = key.substr(dot + 1);
  for (const char* kind : {"weight", "bias"})
    if (rest == std::string("attn.in_proj_") + kind)
      return {{layer + "self_attn.q_proj." + kind, layer + "self_attn.k_proj." + kind,
               layer + "self_attn.v_proj." + kind}};
  for (const auto& [from, to] : {std::pair{"ln_1.", "layer_norm1."},
                                 {"ln_2.", "layer_norm2."},
                                 {"attn.out_proj.", "self_attn.out_proj."},
                                 {"mlp.c_fc.", "mlp.fc1."},
                                 {"mlp.c_proj.", "mlp.fc2."}})
    if (rest.starts_with(from)) return {{layer + to + rest.substr(std::string(from).size())}};
  return {{layer + rest}};
}

}  // namespace

bool is_open_clip(const ModelSource& source) {
  for (const std::string& path : source.weights) {
    SafetensorsFile file(path);
    for (const char* name : {"visual.conv1.weight", "module.visual.conv1.weight"})
      if (file.find(name)) return true;
  }
  return false;
}

FileLayout open_clip_layout(const std::string& original) {
  std::string key = original;
  strip(key, "module.");  // saved from a parallel wrapper
  if (key == "logit_scale") return {{key}};
  if (key == "attn_mask") return {};
  if (strip(key, "visual.")) {
    const std::string tower = "vision_model.";
    if (key == "proj") return {{"visual_projection.weight"}, true};
    if (key == "class_embedding") return {{tower + "embeddings.class_embedding"}};
    if (key == "positional_embedding") return {{tower + "embeddings.position_embedding.weight"}};
    if (key == "conv1.weight") return {{tower + "embeddings.patch_embedding.weight"}};
    if (strip(key, "ln_pre.")) return {{tower + "pre_layrnorm." + key}};
    if (strip(key, "ln_post.")) return {{tower + "post_layernorm." + key}};
    if (strip(key, "transformer.resblocks.")) return block(tower + "encoder.layers.", key);
    return {{original}};
  }
  strip(key, "text.");  // the text tower as a module of its own
  const std::string tower = "text_model.";
  if (key == "text_projection") return {{"text_projection.weight"}, true};
  if (key == "token_embedding.weight") return {{tower + "embeddings.token_embedding.weight"}};
  if (key == "positional_embedding") return {{tower + "embeddings.position_embedding.weight"}};
  if (strip(key, "ln_final.")) return {{tower + "final_layer_norm." + key}};
  if (strip(key, "transformer.resblocks.")) return block(tower + "encoder.layers.", key);
  return {{original}};
}

}  // namespace spindle
