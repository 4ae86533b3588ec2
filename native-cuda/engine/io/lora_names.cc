#include "io/lora_names.h"

#include <algorithm>

#include "core/error.h"
#include "io/ldm_names.h"

namespace spindle {

namespace {

const std::string kWeight = ".weight", kTextModel = "text_model.";

struct Ending {
  const char* text;
  LoraName::Role role;
};
constexpr Ending kEndings[] = {
    {".lora_A.weight", LoraName::Role::Down},
    {".lora_B.weight", LoraName::Role::Up},
    {".lora.down.weight", LoraName::Role::Down},
    {".lora.up.weight", LoraName::Role::Up},
    {".lora_linear_layer.down.weight", LoraName::Role::Down},
    {".lora_linear_layer.up.weight", LoraName::Role::Up},
    {".lora_down.weight", LoraName::Role::Down},
    {".lora_up.weight", LoraName::Role::Up},
    {".alpha", LoraName::Role::Alpha},
};
// Of attention processors; the layer's name stands before it.
constexpr Ending kProcessorEndings[] = {
    {"_lora.down.weight", LoraName::Role::Down},
    {"_lora.up.weight", LoraName::Role::Up},
};

// Tensors of other kinds of adapters, by a part of their names.
constexpr struct {
  const char* part;
  const char* kind;
} kOthers[] = {
    {"hada_", "LoHa"},
    {"lokr_", "LoKr"},
    {"dora_scale", "DoRA"},
    {"lora_magnitude_vector", "DoRA"},
    {"oft_", "OFT"},
    {"boft_", "BOFT"},
    {"vera_lambda", "VeRA"},
    {"lora_mid", "LoCon with a third matrix (Tucker)"},
    {"lora_embedding_", "LoRA of an embedding"},
    {"lora_B.bias", "LoRA with a bias"},
    {"lora_up.bias", "LoRA with a bias"},
    {"on_input", "IA3"},
    {"ia3_", "IA3"},
    {"w_norm", "a norm"},
    {"b_norm", "a norm"},
    {".diff", "a whole difference"},
    {"string_to_param", "textual inversion"},
    {"bundle_emb", "textual inversion"},
    {".scalar", "LoRA with a trained scalar"},
};

struct Prefix {
  const char* text;
  Component component;
};
constexpr Prefix kPrefixes[] = {
    {"lora_unet_", Component::Unet},
    {"lora_te_", Component::TextEncoder},
    {"lora_te1_", Component::TextEncoder},
    {"lora_te2_", Component::TextEncoder2},
    {"unet.", Component::Unet},
    {"diffusion_model.", Component::Unet},
    {"text_encoder.", Component::TextEncoder},
    {"text_encoder_2.", Component::TextEncoder2},
};

bool strip_front(std::string& text, const std::string& front) {
  if (!text.starts_with(front)) return false;
  text.erase(0, front.size());
  return true;
}

template <size_t N>
bool strip_ending(std::string& name, const Ending (&endings)[N], LoraName& out) {
  for (const Ending& ending : endings) {
    if (!name.ends_with(ending.text)) continue;
    name.erase(name.size() - std::string(ending.text).size());
    out.role = ending.role;
    return true;
  }
  return false;
}

std::string underscored(std::string name) {
  std::replace(name.begin(), name.end(), '.', '_');
  return name;
}

[[noreturn]] void refuse(const std::string& tensor, const std::string& path) {
  std::string kind = tensor.ends_with(".weight") || tensor.ends_with(".bias")
                         ? "a whole weight or bias (PEFT's modules_to_save or bias)"
                         : "another kind";
  for (const auto& other : kOthers)
    if (tensor.find(other.part) != std::string::npos) {
      kind = cat(other.kind, ", which is not supported");
      break;
    }
  throw Error(Code::InvalidArgument,
              cat(path, ": ", tensor,
                  ": expected a LoRA tensor (lora_A, lora_B, lora.down, lora.up, lora_down, "
                  "lora_up or alpha), got ",
                  kind));
}

// Attention processors of a text encoder call its layers as a U-Net's.
std::string text_layer_of_processor(const std::string& layer) {
  constexpr std::pair<const char*, const char*> kLayers[] = {
      {".to_q", ".q_proj"}, {".to_k", ".k_proj"}, {".to_v", ".v_proj"}, {".to_out", ".out_proj"}};
  for (const auto& [from, to] : kLayers)
    if (layer.ends_with(from)) return layer.substr(0, layer.size() - std::string(from).size()) + to;
  return layer;
}

}  // namespace

const char* component_name(Component component) {
  switch (component) {
    case Component::Unet:
      return "unet";
    case Component::TextEncoder:
      return "text_encoder";
    case Component::TextEncoder2:
      return "text_encoder_2";
  }
  return "";
}

Component parse_component(const std::string& name, const std::string& where) {
  for (Component component : kComponents)
    if (name == component_name(component)) return component;
  throw Error(Code::InvalidArgument,
              cat(where, ": expected unet, text_encoder or text_encoder_2, got ", name));
}

std::string component_names(const std::vector<Component>& components) {
  std::string out;
  for (size_t i = 0; i < components.size(); ++i)
    out += cat(i == 0                       ? ""
               : i + 1 == components.size() ? " and "
                                            : ", ",
               component_name(components[i]));
  return out;
}

LoraName parse_lora_name(const std::string& tensor, const std::string& path) {
  LoraName out;
  std::string name = tensor;
  out.peft_own = strip_front(name, "base_model.model.");
  bool processor = false;
  if (!strip_ending(name, kEndings, out)) {
    processor = strip_ending(name, kProcessorEndings, out);
    if (!processor) refuse(tensor, path);
  }
  for (const Prefix& prefix : kPrefixes)
    if (strip_front(name, prefix.text)) {
      out.component = prefix.component;
      out.stated = true;
      break;
    }
  bool of_text = name.starts_with(kTextModel) || name.starts_with("encoder.layers.") ||
                 name == "text_projection";
  if (!out.stated && of_text) out.component = Component::TextEncoder;
  size_t at = name.find(".processor.");
  if (at != std::string::npos) name.replace(at, std::string(".processor.").size(), ".");
  if (out.component != Component::Unet && processor) name = text_layer_of_processor(name);
  // Attention processors left the list's index out.
  if (out.component == Component::Unet && name.ends_with(".to_out")) name += ".0";
  out.layer = name;
  return out;
}

LoraLayerNames::LoraLayerNames(const ParameterStore& model, Component component) {
  std::vector<std::string> layers;
  for (const Parameter& p : model.parameters())
    if (p.kind != ParameterKind::Vector && p.name.ends_with(kWeight))
      layers.push_back(p.name.substr(0, p.name.size() - kWeight.size()));
  auto add = [&](const std::string& name, const std::string& layer) {
    auto [it, fresh] = by_underscores_.emplace(underscored(name), layer + kWeight);
    ensure(fresh || it->second == layer + kWeight, "[lora] ", name, ": names two layers");
  };
  for (const std::string& layer : layers) {
    add(layer, layer);
    if (component != Component::Unet && layer.starts_with(kTextModel))
      add(layer.substr(kTextModel.size()), layer);
  }
  if (component != Component::Unet) return;
  std::vector<std::string> original = ldm_unet_names(layers);
  for (size_t i = 0; i < layers.size(); ++i)
    if (!original[i].empty()) add(original[i], layers[i]);
}

std::string LoraLayerNames::parameter(const LoraName& name) const {
  auto it = by_underscores_.find(underscored(name.layer));
  return it == by_underscores_.end() ? std::string() : it->second;
}

std::vector<std::string> names_for_patterns(const std::string& parameter) {
  std::string layer = parameter.substr(0, parameter.size() - kWeight.size());
  std::vector<std::string> names{layer};
  if (layer.starts_with(kTextModel)) names.push_back(layer.substr(kTextModel.size()));
  return names;
}

}  // namespace spindle
