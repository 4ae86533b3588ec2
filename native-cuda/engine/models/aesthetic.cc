#include "models/aesthetic.h"

#include "io/safetensors.h"

namespace spindle {

namespace {

// Version 2's nn.Sequential: dropouts stand between.
constexpr int64_t kIndices[] = {0, 2, 4, 6, 7};

// Version 1 is a lone nn.Linear.
std::string rename_linear_key(const std::string& key) {
  return key == "weight" || key == "bias" ? "layers.0." + key : key;
}
LoadOptions options() {
  LoadOptions o;
  o.rename = rename_linear_key;
  return o;
}

const FileTensor* find_in(const SafetensorsFile& file, const std::string& name) {
  for (const FileTensor& tensor : file.tensors())
    if (rename_linear_key(tensor.name) == name) return &tensor;
  return nullptr;
}

// A head ends with the layer of one output.
bool complete(const std::vector<int64_t>& widths) {
  return widths.size() > 1 && widths.back() == 1;
}

std::vector<int64_t> read_widths(const ModelSource& source) {
  std::vector<int64_t> widths;
  for (int64_t index : kIndices) {
    if (complete(widths)) break;
    std::string name = cat("layers.", index, ".weight");
    bool found = false;
    for (const std::string& path : source.weights) {
      SafetensorsFile file(path);
      if (const FileTensor* t = find_in(file, name)) {
        require(t->shape.size() == 2 && t->shape[0] > 0 && t->shape[1] > 0, "[", source.label, "] ",
                name, ": expected a matrix, got ", Shape(t->shape));
        if (widths.empty()) widths.push_back(t->shape[1]);
        widths.push_back(t->shape[0]);
        found = true;
        break;
      }
    }
    require(found, "[", source.label, "] ", name, ": expected in the weights, got none");
  }
  require(widths.back() == 1, "[", source.label, "] layers.7.weight: expected 1 output, got ",
          widths.back());
  return widths;
}

}  // namespace

AestheticModel::AestheticModel(const Scope& scope, const std::vector<int64_t>& widths)
    : widths_(widths) {
  ensure(widths.size() > 1 && widths.size() <= std::size(kIndices) + 1,
         "[aesthetic] expected 2 to ", std::size(kIndices) + 1, " widths, got ", widths.size());
  for (size_t i = 0; i + 1 < widths.size(); ++i)
    layers_.emplace_back(scope / "layers" / kIndices[i], widths[i], widths[i + 1]);
}

Tensor AestheticModel::forward(Tape& tape, const Tensor& embeds) const {
  require(embeds.rank() == 2 && embeds.dim(1) == embed_dim(), "[aesthetic] embeds: expected (B, ",
          embed_dim(), "), got ", embeds.shape());
  Tensor x = embeds;
  for (const nn::Linear& layer : layers_) x = layer(tape, x);
  return x;
}

std::unique_ptr<Aesthetic> load_aesthetic(Device& device, const ModelSource& source) {
  auto loaded = std::make_unique<Aesthetic>(device, read_widths(source));
  check_parameters(loaded->store, source, options());
  loaded->store.allocate(DType::F32, DType::F32, false);
  load_parameters(loaded->store, source, options());
  return loaded;
}

int64_t inspect_aesthetic(Device& device, const ModelSource& source) {
  Aesthetic model(device, read_widths(source));
  check_parameters(model.store, source, options());
  int64_t count = 0;
  for (const Parameter& p : model.store.parameters()) count += p.shape.numel();
  return count;
}

}  // namespace spindle
