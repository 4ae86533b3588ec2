#include "io/adapter_settings.h"

#include <algorithm>
#include <cmath>
#include <string_view>

#include "core/error.h"
#include "io/config.h"

namespace spindle {

namespace {

// Keys that leave a LoRA adapter what it is: what is trained and how, what the tensors show
// themselves (bias, modules_to_save), and notes. fan_in_fan_out is for Conv1D, which no model here
// has; PEFT takes it back on other layers.
constexpr std::string_view kWithoutBearing[] = {
    "target_modules",
    "exclude_modules",
    "lora_dropout",
    "fan_in_fan_out",
    "bias",
    "modules_to_save",
    "layers_to_transform",
    "layers_pattern",
    "megatron_core",
    "loftq_config",
    "eva_config",
    "corda_config",
    "lora_ga_config",
    "velora_config",
    "qalora_group_size",
    "runtime_config",
    "ensure_weight_tying",
    "task_type",
    "auto_mapping",
    "peft_version",
    "base_model_name_or_path",
    "revision",
    "inference_mode",
};

bool is_set(const Json& value) {
  if (value.is_bool()) return value.boolean();
  if (value.is_array()) return !value.items().empty();
  if (value.is_object()) return !value.members().empty();
  return false;  // a number or a text alone switches nothing on
}

}  // namespace

AdapterSettings::AdapterSettings(const Json& settings, std::string where)
    : where_(std::move(where)) {
  Config config(settings, where_);
  config.only("peft_type", {"LORA"});
  // Other ways to begin change the weights below the adapter.
  config.only("init_lora_weights", {true, false, "gaussian", "eva", "orthogonal", "mica"});
  // PEFT's defaults.
  rank_ = config.integer("r", 8);
  if (rank_ < 1) config.refuse("r", "a positive integer");
  alpha_ = config.number("lora_alpha", 8);
  if (!std::isfinite(alpha_)) config.refuse("lora_alpha", "a finite number");
  rslora_ = config.boolean("use_rslora", false);
  ranks_ = patterns(settings, "rank_pattern");
  alphas_ = patterns(settings, "alpha_pattern");
  constexpr std::string_view kRead[] = {"peft_type",    "init_lora_weights", "r",
                                        "lora_alpha",   "use_rslora",        "rank_pattern",
                                        "alpha_pattern"};
  for (const auto& [key, value] : settings.members()) {
    auto among = [&key = key](const auto& list) {
      return std::find(std::begin(list), std::end(list), key) != std::end(list);
    };
    require(among(kRead) || among(kWithoutBearing) || !is_set(value), where_, ": ", key,
            ": expected null or false (plain LoRA), got ", value.describe());
  }
}

AdapterSettings::Patterns AdapterSettings::patterns(const Json& settings, const char* key) const {
  Patterns out;
  const Json* value = settings.find(key);
  if (!value || value->is_null()) return out;
  std::string where = cat(where_, ": ", key);
  require(value->is_object(), where, ": expected an object, got ", value->describe());
  for (const auto& [name, number] : value->members()) {
    require(number.is_number() && std::isfinite(number.number()), where, ": ", name,
            ": expected a number, got ", number.describe());
    out.push_back({name, LayerPattern(name, where), number.number()});
  }
  return out;
}

const AdapterSettings::Pattern* AdapterSettings::find(const Patterns& patterns,
                                                      const std::vector<std::string>& layer) {
  auto it = std::find_if(patterns.begin(), patterns.end(), [&](const Pattern& p) {
    return std::any_of(layer.begin(), layer.end(),
                       [&](const std::string& name) { return p.pattern.matches(name); });
  });
  return it == patterns.end() ? nullptr : &*it;
}

double AdapterSettings::scale(const std::vector<std::string>& layer,
                              int64_t rank,
                              const std::string& tensor) const {
  const Pattern *by_rank = find(ranks_, layer), *by_alpha = find(alphas_, layer);
  double stated = by_rank ? by_rank->value : double(rank_);
  require(stated == double(rank), where_, by_rank ? ": rank_pattern: " + by_rank->key : ": r",
          ": expected ", rank, ", the rank of ", tensor, ", got ", stated);
  double alpha = by_alpha ? by_alpha->value : alpha_;
  return alpha / (rslora_ ? std::sqrt(double(rank)) : double(rank));
}

}  // namespace spindle
