#include "train/adapters.h"

#include <cmath>
#include <cstring>

#include "io/lora_file.h"
#include "io/weight_layout.h"

namespace spindle {

namespace {

const std::string kWeight = ".weight";

bool names(const std::string& target, const std::string& layer) { return layer == target || layer.ends_with("." + target); }

bool is_linear_layer(const Parameter& p) { return p.kind == ParameterKind::Matrix && p.name.ends_with(kWeight); }

std::string layer_of(const Parameter& p) { return p.name.substr(0, p.name.size() - kWeight.size()); }

}  // namespace

Adapters::Adapters(Unet& base, const LoraOptions& options, WeightUse use) : base_(base), scale_(options.alpha / double(options.rank)), store_(base.device) {
  require(options.rank >= 1 && options.rank <= 4096, "[lora] rank: expected 1 to 4096, got ", options.rank);
  require(options.alpha > 0 && std::isfinite(options.alpha), "[lora] alpha: expected a positive number, got ", options.alpha);
  require(!options.targets.empty(), "[lora] targets: expected at least one layer, got none");
  ensure(base.store.use() == WeightUse::PassThrough, "[lora] the base's weights must be kept for backward");
  std::vector<bool> found(options.targets.size());
  for (Parameter& p : base.store.parameters()) {
    if (!is_linear_layer(p)) continue;
    std::string layer = layer_of(p);
    bool wanted = false;
    for (size_t i = 0; i < options.targets.size(); ++i)
      if (names(options.targets[i], layer)) wanted = found[i] = true;
    if (!wanted) continue;
    Parameter& a = store_.add(layer + ".lora_A.weight", {options.rank, p.shape[1]}, ParameterKind::Matrix);
    Parameter& b = store_.add(layer + ".lora_B.weight", {p.shape[0], options.rank}, ParameterKind::Matrix);
    a.pointwise = b.pointwise = p.pointwise;
    layers_.push_back({&p, {&a, &b, scale_}});
  }
  for (size_t i = 0; i < options.targets.size(); ++i) require(found[i], "[lora] targets: expected names of linear layers of the U-Net, got \"", options.targets[i], "\", which names none");
  store_.allocate(base.store.compute(), DType::F32, use);
}

Adapters::~Adapters() { deactivate(base_); }

void Adapters::initialise(const Philox& philox) {
  uint32_t number = 0;
  for (Layer& layer : layers_) {
    Tensor &a = layer.low_rank.a->master, &b = layer.low_rank.b->master;
    philox.normal(a.f32(), a.numel(), 0, number++, Draw::Adapter);
    float deviation = 1 / float(layer.low_rank.a->shape[0]);
    for (int64_t i = 0; i < a.numel(); ++i) a.f32()[i] *= deviation;
    std::memset(b.raw(), 0, b.bytes());
  }
  store_.commit();
}

void Adapters::load(const std::string& path) {
  LoraFile file(path, base_.store);
  require(file.layers().size() == layers_.size(), path, ": expected adapters of ", layers_.size(), " layers, got ", file.layers().size());
  for (Layer& layer : layers_) {
    const LoraLayer* found = file.find(layer.weight->name);
    require(found != nullptr, path, ": ", layer.weight->name, ": expected an adapter, got none");
    Tensor &a = layer.low_rank.a->master, &b = layer.low_rank.b->master;
    require(found->rank() == layer.low_rank.a->shape[0], path, ": ", found->down->name, ": expected rank ", layer.low_rank.a->shape[0], ", got ", found->rank());
    std::vector<float> down = file.read(*found->down), up = file.read(*found->up);
    double ratio = found->alpha / double(found->rank()) / scale_;
    std::memcpy(a.raw(), down.data(), a.bytes());
    for (int64_t i = 0; i < b.numel(); ++i) b.f32()[i] = float(ratio * double(up[size_t(i)]));
  }
  store_.commit();
}

void Adapters::save(const std::string& path, const Tensor& arena) const {
  std::vector<TensorToWrite> tensors;
  for (const Layer& layer : layers_)
    for (const Parameter* p : {layer.low_rank.a, layer.low_rank.b}) {
      double factor = p == layer.low_rank.b ? scale_ : 1;
      tensors.push_back({"unet." + p->name, FileType::F32, file_shape(*p), [p, arena, factor](const ByteSink& sink) {
                           Tensor block = arena.slice(p->offset, p->shape);
                           std::vector<float> values(size_t(block.numel()));
                           for (size_t i = 0; i < values.size(); ++i) values[i] = float(factor * double(block.f32()[i]));
                           sink(values.data(), values.size() * sizeof(float));
                         }});
    }
  write_safetensors(path, std::move(tensors), {{"format", "pt"}});
}

void Adapters::save_merged(const std::string& path, const Tensor& arena) const {
  std::vector<TensorToWrite> tensors;
  for (const Parameter& p : base_.store.parameters()) {
    const LowRank* low_rank = nullptr;
    for (const Layer& layer : layers_)
      if (layer.weight == &p) low_rank = &layer.low_rank;
    tensors.push_back({p.name, FileType::F32, file_shape(p), [&p, low_rank, arena](const ByteSink& sink) {
                         std::vector<float> out(size_t(p.shape.numel()));
                         to_file_layout(p, p.master.f32(), out.data());
                         if (low_rank) {
                           Tensor a = arena.slice(low_rank->a->offset, low_rank->a->shape), b = arena.slice(low_rank->b->offset, low_rank->b->shape);
                           int64_t rank = a.dim(0), k = a.dim(1), n = b.dim(0);
                           for (int64_t i = 0; i < n; ++i)
                             for (int64_t j = 0; j < k; ++j) {
                               double sum = 0;
                               for (int64_t r = 0; r < rank; ++r) sum += double(b.f32()[i * rank + r]) * double(a.f32()[r * k + j]);
                               out[size_t(i * k + j)] = float(double(out[size_t(i * k + j)]) + low_rank->scale * sum);
                             }
                         }
                         sink(out.data(), out.size() * sizeof(float));
                       }});
  }
  write_safetensors(path, std::move(tensors), {{"format", "pt"}});
}

void Adapters::activate() const {
  deactivate(base_);
  for (const Layer& layer : layers_) layer.weight->low_rank = &layer.low_rank;
}

void Adapters::deactivate(Unet& base) {
  for (Parameter& p : base.store.parameters()) p.low_rank = nullptr;
}

}  // namespace spindle
