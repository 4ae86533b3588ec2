// Which layer of which component a tensor of a LoRA file belongs to.
//   <component>.<layer>.lora_A.weight and .lora_B.weight: PEFT's, as diffusers writes them; PEFT's
//     own files have base_model.model. in place of the component.
//   <component>.<layer>.lora.down.weight and .lora.up.weight, .lora_linear_layer.…: older
//   diffusers. <component>.<attention>.processor.<layer>_lora.down.weight and …up: still older
//   ones. lora_unet_<layer with underscores>.lora_down.weight and .lora_up.weight, lora_te_…,
//   lora_te1_…,
//     lora_te2_…: kohya's. A U-Net's layers may have the original code's names (io/ldm_names.h).
//   <layer>.alpha beside any of them.
#pragma once
#include <map>
#include <string>
#include <vector>

#include "autograd/parameter.h"

namespace spindle {

// A part of a pipeline that LoRA files adapt, under diffusers' name.
enum class Component : uint8_t { Unet, TextEncoder, TextEncoder2 };
inline constexpr Component kComponents[] = {Component::Unet, Component::TextEncoder,
                                            Component::TextEncoder2};
const char* component_name(Component component);
Component parse_component(const std::string& name, const std::string& where);
// "unet and text_encoder"
std::string component_names(const std::vector<Component>& components);

struct LoraName {
  enum class Role : uint8_t { Down, Up, Alpha };
  Role role = Role::Down;
  Component component = Component::Unet;
  bool stated = false;    // the name says which component it is of
  bool peft_own = false;  // of a file that PEFT itself wrote
  std::string layer;      // as the file spells it, without the component
};

// Throws where the tensor is not LoRA's, and says what it is where that is known. `path` names the
// file.
LoraName parse_lora_name(const std::string& tensor, const std::string& path);

// A model's linear layers and convolutions under all names that LoRA files use for them.
class LoraLayerNames {
 public:
  LoraLayerNames(const ParameterStore& model, Component component);
  // The parameter's name; empty where the model has no such layer.
  std::string parameter(const LoraName& name) const;

 private:
  std::map<std::string, std::string> by_underscores_;
};

// Names of the layer that patterns may be written for: those of transformers' CLIPTextModel lost
// "text_model." with its version 5.
std::vector<std::string> names_for_patterns(const std::string& parameter);

}  // namespace spindle
