#include "models/aesthetic.h"

#include "io/safetensors.h"

namespace spindle {

namespace {

// The published head's nn.Sequential: dropouts stand between.
constexpr int64_t kIndices[] = {0, 2, 4, 6, 7};

std::vector<int64_t> read_widths(const ModelSource& source) {
  std::vector<int64_t> widths;
  for (int64_t index : kIndices) {
    std::string name = cat("layers.", index, ".weight");
    const FileTensor* found = nullptr;
    for (const std::string& path : source.weights) {
      SafetensorsFile file(path);
      if (const FileTensor* t = file.find(name)) {
        require(t->shape.size() == 2 && t->shape[0] > 0 && t->shape[1] > 0, "[", source.label, "] ", name, ": expected a matrix, got ", Shape(t->shape));
        if (widths.empty()) widths.push_back(t->shape[1]);
        widths.push_back(t->shape[0]);
        found = t;
        break;
      }
    }
    require(found, "[", source.label, "] ", name, ": expected in the weights, got none");
  }
  require(widths.back() == 1, "[", source.label, "] layers.7.weight: expected 1 output, got ", widths.back());
  return widths;
}

}  // namespace

AestheticModel::AestheticModel(const Scope& scope, const std::vector<int64_t>& widths) : widths_(widths) {
  ensure(widths.size() == std::size(kIndices) + 1, "[aesthetic] expected ", std::size(kIndices) + 1, " widths, got ", widths.size());
  for (size_t i = 0; i < std::size(kIndices); ++i) layers_.emplace_back(scope / "layers" / kIndices[i], widths[i], widths[i + 1]);
}

Tensor AestheticModel::forward(Tape& tape, const Tensor& embeds) const {
  require(embeds.rank() == 2 && embeds.dim(1) == embed_dim(), "[aesthetic] embeds: expected (B, ", embed_dim(), "), got ", embeds.shape());
  Tensor x = embeds;
  for (const nn::Linear& layer : layers_) x = layer(tape, x);
  return x;
}

std::unique_ptr<Aesthetic> load_aesthetic(Device& device, const ModelSource& source) {
  auto loaded = std::make_unique<Aesthetic>(device, read_widths(source));
  check_parameters(loaded->store, source);
  loaded->store.allocate(DType::F32, DType::F32, false);
  load_parameters(loaded->store, source);
  return loaded;
}

int64_t inspect_aesthetic(Device& device, const ModelSource& source) {
  Aesthetic model(device, read_widths(source));
  check_parameters(model.store, source);
  int64_t count = 0;
  for (const Parameter& p : model.store.parameters()) count += p.shape.numel();
  return count;
}

}  // namespace spindle
