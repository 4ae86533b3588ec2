// What PEFT's LoraConfig says of a LoRA adapter, from adapter_config.json or from the header that
// diffusers writes. Only the scale is read; options that make something else of the adapter are
// refused by name.
#pragma once
#include <string>
#include <utility>
#include <vector>

#include "io/json.h"
#include "io/layer_pattern.h"

namespace spindle {

class AdapterSettings {
 public:
  // `where` names the settings in errors.
  AdapterSettings(const Json& settings, std::string where);
  // What multiplies up * down: alpha / rank, or alpha / sqrt(rank) with use_rslora. `layer`: the
  // names of the layer (lora_names.h). Refuses a rank that is not the settings'; `tensor` names it.
  double scale(const std::vector<std::string>& layer,
               int64_t rank,
               const std::string& tensor) const;
  const std::string& where() const { return where_; }

 private:
  struct Pattern {
    std::string key;
    LayerPattern pattern;
    double value;
  };
  using Patterns = std::vector<Pattern>;
  Patterns patterns(const Json& settings, const char* key) const;
  static const Pattern* find(const Patterns& patterns, const std::vector<std::string>& layer);

  std::string where_;
  int64_t rank_ = 8;
  double alpha_ = 8;
  bool rslora_ = false;
  Patterns ranks_, alphas_;
};

}  // namespace spindle
