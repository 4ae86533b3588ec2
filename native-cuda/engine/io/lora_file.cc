#include "io/lora_file.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "io/json.h"
#include "io/weight_layout.h"

namespace spindle {

namespace {

enum class Part : uint8_t { Down, Up, Alpha };

struct Ending {
  const char* text;
  Part part;
};

constexpr Ending kEndings[] = {
    {".lora_A.weight", Part::Down},    {".lora_B.weight", Part::Up},
    {".lora.down.weight", Part::Down}, {".lora.up.weight", Part::Up},
    {".lora_down.weight", Part::Down}, {".lora_up.weight", Part::Up},
    {"_lora.down.weight", Part::Down}, {"_lora.up.weight", Part::Up},
    {".alpha", Part::Alpha},
};

bool strip_front(std::string& text, const std::string& front) {
  if (!text.starts_with(front)) return false;
  text.erase(0, front.size());
  return true;
}

struct Named {
  std::string layer;
  Part part;
};

std::string underscored(std::string name) {
  std::replace(name.begin(), name.end(), '.', '_');
  return name;
}

// Which layer's what a tensor is; nothing where no convention knows the name.
std::optional<Named> parse_name(std::string name,
                                const std::map<std::string, std::string>& by_underscores) {
  strip_front(name, "base_model.model.");
  const Ending* ending = std::find_if(std::begin(kEndings), std::end(kEndings),
                                      [&](const Ending& e) { return name.ends_with(e.text); });
  if (ending == std::end(kEndings)) return {};
  name.erase(name.size() - std::string(ending->text).size());
  if (strip_front(name, "lora_unet_")) {
    auto it = by_underscores.find(name);
    return Named{it == by_underscores.end() ? name : it->second, ending->part};
  }
  strip_front(name, "unet.");
  size_t processor = name.find(".processor.");
  if (processor != std::string::npos)
    name.replace(processor, std::string(".processor.").size(), ".");
  if (name.ends_with(".to_out")) name += ".0";  // attention processors left the list's index out
  return Named{name, ending->part};
}

bool of_text_encoder(const std::string& name) {
  return name.starts_with("text_encoder") || name.starts_with("lora_te");
}

// diffusers writes PEFT's settings into the header; without them and without .alpha tensors alpha
// is the rank.
std::optional<double> alpha_of_header(const SafetensorsFile& file) {
  auto it = file.metadata().find("lora_adapter_metadata");
  if (it == file.metadata().end()) return {};
  Json json = Json::parse(it->second, file.path() + ": lora_adapter_metadata");
  const Json* alpha = json.find("unet.lora_alpha");
  if (!alpha) return {};
  return alpha->number();
}

void check_shapes(const std::string& path, const Parameter& p, const LoraLayer& layer) {
  std::vector<int64_t> expected = file_shape(p);
  const std::vector<int64_t>&down = layer.down->shape, &up = layer.up->shape;
  auto count = [](const std::vector<int64_t>& shape) {
    int64_t n = 1;
    for (int64_t d : shape) n *= d;
    return n;
  };
  bool fits = down.size() >= 2 && up.size() >= 2 && down[0] > 0 && up[0] == expected[0] &&
              up[1] == down[0] && count(up) == up[0] * up[1] &&
              count(down) / down[0] == count(expected) / expected[0];
  require(fits, path, ": ", layer.down->name,
          ": expected a pair of matrices for a weight of shape ", shape_text(expected), ", got ",
          shape_text(down), " and ", shape_text(up));
}

}  // namespace

LoraFile::LoraFile(const std::string& path, ParameterStore& model)
    : file_(std::make_unique<SafetensorsFile>(path)) {
  std::map<std::string, std::string> by_underscores;
  for (const Parameter& p : model.parameters())
    if (p.name.ends_with(".weight")) {
      std::string layer = p.name.substr(0, p.name.size() - std::string(".weight").size());
      by_underscores[underscored(layer)] = layer;
    }
  std::map<std::string, double> alphas;
  for (const FileTensor& tensor : file_->tensors()) {
    require(!of_text_encoder(tensor.name), path, ": ", tensor.name,
            ": expected adapters of the U-Net only, got one of a text encoder");
    std::optional<Named> named = parse_name(tensor.name, by_underscores);
    require(named.has_value(), path, ": ", tensor.name,
            ": expected a LoRA tensor (lora_A, lora_B, lora.down, lora.up, lora_down, lora_up or "
            "alpha), got another kind");
    std::string parameter = named->layer + ".weight";
    const Parameter* p = model.find(parameter);
    require(p != nullptr && p->kind != ParameterKind::Vector, path, ": ", tensor.name,
            ": expected an adapter of a linear layer or convolution of the U-Net, got one of \"",
            named->layer, "\"");
    if (named->part == Part::Alpha) {
      require(tensor.numel() == 1, path, ": ", tensor.name, ": expected one value, got shape ",
              shape_text(tensor.shape));
      alphas[parameter] = double(read(tensor)[0]);
      continue;
    }
    const FileTensor*& slot =
        named->part == Part::Down ? layers_[parameter].down : layers_[parameter].up;
    require(slot == nullptr, path, ": ", tensor.name, ": expected one tensor for ", parameter,
            ", got another as ", slot ? slot->name : "");
    slot = &tensor;
  }
  require(!layers_.empty(), path, ": expected LoRA tensors, got none");
  std::optional<double> common = alpha_of_header(*file_);
  for (auto& [name, layer] : layers_) {
    require(layer.down && layer.up, path, ": ", name,
            ": expected both matrices of its adapter, got only ",
            layer.down ? layer.down->name : layer.up->name);
    check_shapes(path, *model.find(name), layer);
    auto alpha = alphas.find(name);
    layer.alpha = alpha != alphas.end() ? alpha->second : common.value_or(double(layer.rank()));
    require(std::isfinite(layer.alpha), path, ": ", name, ": alpha: expected a number, got ",
            layer.alpha);
  }
}

const LoraLayer* LoraFile::find(const std::string& parameter) const {
  auto it = layers_.find(parameter);
  return it == layers_.end() ? nullptr : &it->second;
}

std::vector<float> LoraFile::read(const FileTensor& tensor) const {
  std::vector<float> values(size_t(tensor.numel()));
  file_->read(tensor, values.data());
  return values;
}

template <class T>
void LoraFile::add_to(const LoraLayer& layer, double scale, T* values, int64_t count) const {
  std::vector<float> down = read(*layer.down), up = read(*layer.up);
  int64_t rank = layer.rank(), n = layer.up->shape[0], k = count / n;
  double factor = scale * layer.alpha / double(rank);
  std::vector<double> row(static_cast<size_t>(k));
  for (int64_t i = 0; i < n; ++i) {
    std::fill(row.begin(), row.end(), 0.0);
    for (int64_t r = 0; r < rank; ++r) {
      double weight = factor * double(up[size_t(i * rank + r)]);
      for (int64_t j = 0; j < k; ++j) row[size_t(j)] += weight * double(down[size_t(r * k + j)]);
    }
    for (int64_t j = 0; j < k; ++j)
      values[i * k + j] = T(double(values[i * k + j]) + row[size_t(j)]);
  }
}

template void LoraFile::add_to<float>(const LoraLayer&, double, float*, int64_t) const;
template void LoraFile::add_to<double>(const LoraLayer&, double, double*, int64_t) const;

}  // namespace spindle
