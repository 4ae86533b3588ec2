#include "io/lora_file.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <optional>
#include <sstream>

#include "io/adapter_settings.h"
#include "io/weight_layout.h"

namespace spindle {

namespace {

constexpr size_t kNamesInErrors = 3;

// "a, b, c and 4 more"
std::string first_few(const std::vector<std::string>& names) {
  std::string out;
  for (size_t i = 0; i < std::min(names.size(), kNamesInErrors); ++i)
    out += (i ? ", " : "") + names[i];
  return names.size() > kNamesInErrors ? cat(out, " and ", names.size() - kNamesInErrors, " more")
                                       : out;
}

// What stands in the header for the component's tensors, or for those of files that name no
// component.
std::optional<AdapterSettings> settings_of_header(const SafetensorsFile& file,
                                                  Component component,
                                                  bool stated) {
  auto it = file.metadata().find("lora_adapter_metadata");
  if (it == file.metadata().end() || it->second.empty()) return {};
  std::string where = file.path() + ": lora_adapter_metadata";
  Json json = Json::parse(it->second, where);
  if (json.is_null()) return {};
  require(json.is_object(), where, ": expected an object, got ", json.describe());
  // By what stands before the key's first dot: our component, none, or another one.
  Json::Object with, without;
  for (const auto& [key, value] : json.members()) {
    std::optional<Component> of;
    for (Component c : kComponents)
      if (key.starts_with(component_name(c) + std::string("."))) of = c;
    if (of == component) with.emplace_back(key.substr(key.find('.') + 1), value);
    if (!of) without.emplace_back(key, value);
  }
  Json::Object &own = stated ? with : without, &other = stated ? without : with;
  const std::string front = component_name(component) + std::string(".");
  require(!own.empty() || other.empty(), where, ": expected keys ", stated ? "with " : "without ",
          front, " in front, as the tensors are, got ", stated ? "" : front,
          other.empty() ? "" : other[0].first);
  if (own.empty()) return {};
  return AdapterSettings(Json(std::move(own)),
                         stated ? where + ": " + component_name(component) : where);
}

// PEFT's adapter_config.json, which stands beside its adapter_model.safetensors.
std::optional<AdapterSettings> settings_beside(const std::string& path) {
  std::filesystem::path beside = std::filesystem::path(path).parent_path() / "adapter_config.json";
  if (!std::filesystem::exists(beside)) return {};
  std::ifstream in(beside, std::ios::binary);
  std::stringstream text;
  text << in.rdbuf();
  require(in.good(), beside.string(), ": expected a readable file, got none");
  return AdapterSettings(Json::parse(text.str(), beside.string()), beside.string());
}

bool is_real(FileType type) {
  return type == FileType::F64 || type == FileType::F32 || type == FileType::F16 ||
         type == FileType::BF16;
}

// Of a matrix (N, K), perhaps kept as (N, K, 1, 1), down is (r, K) and up (N, r), each perhaps with
// (…, 1, 1). Of a filter (N, Ci, R, S) they are (r, Ci, R, S) and (N, r, 1, 1).
void check_shapes(const std::string& path, const Parameter& p, const LoraLayer& layer) {
  using Dims = std::vector<int64_t>;
  const Dims weight = file_shape(p);
  auto check = [&](const FileTensor& tensor, const Dims& expected, bool also_flat) {
    require(is_real(tensor.type), path, ": ", tensor.name,
            ": dtype: expected F64, F32, F16 or BF16, got ", file_type_name(tensor.type));
    Dims flat{expected[0], expected[1]};
    require(tensor.shape == expected || (also_flat && tensor.shape == flat), path, ": ",
            tensor.name, ": expected shape ", shape_text(also_flat ? flat : expected),
            " for a weight of shape ", shape_text(weight), ", got ", shape_text(tensor.shape));
  };
  require(!layer.down->shape.empty() && layer.down->shape[0] > 0, path, ": ", layer.down->name,
          ": expected at least rank 1, got shape ", shape_text(layer.down->shape));
  int64_t rank = layer.rank();
  bool pointwise = weight.size() == 2 || (weight[2] == 1 && weight[3] == 1);
  Dims down = pointwise ? Dims{rank, weight[1], 1, 1} : Dims{rank, weight[1], weight[2], weight[3]};
  check(*layer.down, down, pointwise);
  check(*layer.up, {weight[0], rank, 1, 1}, pointwise);
}

// What a file says of its scales.
struct Statements {
  std::optional<AdapterSettings> header, header_without_component, beside;
};

double scale_of(const SafetensorsFile& file,
                const std::string& parameter,
                const LoraLayer& layer,
                const LoraName& name,
                const Statements& statements) {
  struct Statement {
    double scale;
    std::string where;
  };
  std::vector<Statement> found;
  if (layer.alpha) {
    double alpha = 0;
    file.read(*layer.alpha, &alpha);
    require(std::isfinite(alpha), file.path(), ": ", layer.alpha->name,
            ": expected a finite number, got ", alpha);
    found.push_back({alpha / double(layer.rank()), layer.alpha->name});
  }
  std::vector<std::string> names = names_for_patterns(parameter);
  for (const auto* settings :
       {name.stated ? &statements.header : &statements.header_without_component,
        &statements.beside})
    if (*settings)
      found.push_back(
          {(*settings)->scale(names, layer.rank(), layer.down->name), (*settings)->where()});
  for (const Statement& other : found)
    require(std::abs(other.scale - found[0].scale) <= 1e-3 * std::abs(found[0].scale), file.path(),
            ": ", parameter, ": expected one scale, got ", found[0].scale, " by ", found[0].where,
            " and ", other.scale, " by ", other.where);
  require(!found.empty() || !name.peft_own, file.path(), ": ", layer.down->name,
          ": expected PEFT's adapter_config.json beside the file, which states lora_alpha, got "
          "none");
  return found.empty() ? 1 : found[0].scale;  // alpha is the rank
}

}  // namespace

LoraFile::LoraFile(const std::string& path, const ParameterStore& model, const LoraTarget& target)
    : file_(std::make_unique<SafetensorsFile>(path)) {
  auto wanted = [&](Component component) {
    return std::find(target.components.begin(), target.components.end(), component) !=
           target.components.end();
  };
  const LoraLayerNames layer_names(model, target.component);
  std::map<std::string, const Parameter*> parameters;
  for (const Parameter& p : model.parameters()) parameters[p.name] = &p;
  std::map<std::string, LoraName> names;
  std::vector<std::string> strangers, elsewhere;
  bool peft_own = std::filesystem::path(path).filename() == "adapter_model.safetensors";
  for (const FileTensor& tensor : file_->tensors()) {
    LoraName name = parse_lora_name(tensor.name, path);
    peft_own = peft_own || name.peft_own;
    require(name.stated || name.component == Component::Unet || !wanted(Component::TextEncoder2),
            path, ": ", tensor.name,
            ": expected text_encoder. or text_encoder_2. before the name, since this pipeline has "
            "two text encoders, got neither");
    if (name.component != target.component) {
      if (!wanted(name.component)) elsewhere.push_back(tensor.name);
      continue;
    }
    std::string parameter = layer_names.parameter(name);
    if (parameter.empty()) {
      strangers.push_back(tensor.name);
      continue;
    }
    LoraLayer& layer = layers_[parameter];
    const FileTensor*& slot = name.role == LoraName::Role::Alpha  ? layer.alpha
                              : name.role == LoraName::Role::Down ? layer.down
                                                                  : layer.up;
    require(slot == nullptr, path, ": ", tensor.name, ": expected one tensor for ", parameter,
            ", got another as ", slot ? slot->name : "");
    slot = &tensor;
    if (name.role == LoraName::Role::Alpha)
      require(tensor.numel() == 1, path, ": ", tensor.name, ": expected one value, got shape ",
              shape_text(tensor.shape));
    if (name.role == LoraName::Role::Down) names.emplace(parameter, name);
  }
  require(!file_->tensors().empty(), path, ": expected LoRA tensors, got none");
  require(elsewhere.empty(), path, ": expected adapters of ", component_names(target.components),
          " only, got ", first_few(elsewhere),
          ", which nothing here takes (is the file made for another model?)");
  require(strangers.empty(), path, ": expected adapters of linear layers and convolutions of this ",
          component_name(target.component), ", got ", first_few(strangers),
          ", which name none (is the file made for another model?)");
  Statements statements;
  auto any = [&](bool stated) {
    return std::any_of(names.begin(), names.end(),
                       [&](const auto& name) { return name.second.stated == stated; });
  };
  if (any(true)) statements.header = settings_of_header(*file_, target.component, true);
  if (any(false))
    statements.header_without_component = settings_of_header(*file_, target.component, false);
  if (peft_own) statements.beside = settings_beside(path);
  for (auto& [parameter, layer] : layers_) {
    require(layer.down && layer.up, path, ": ", parameter,
            ": expected both matrices of its adapter, got only ",
            layer.down ? layer.down->name
            : layer.up ? layer.up->name
                       : layer.alpha->name);
    check_shapes(path, *parameters.at(parameter), layer);
    layer.scale = scale_of(*file_, parameter, layer, names.at(parameter), statements);
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
  double factor = scale * layer.scale;
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
