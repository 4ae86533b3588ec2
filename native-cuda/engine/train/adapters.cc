#include "train/adapters.h"

#include <cmath>

#include "io/lora_file.h"
#include "io/weight_layout.h"

namespace spindle {

namespace {

const std::string kWeight = ".weight";

bool names(const std::string& target, const std::string& layer) {
  return layer == target || layer.ends_with("." + target);
}

bool is_linear_layer(const Parameter& p) {
  return p.kind == ParameterKind::Matrix && p.name.ends_with(kWeight);
}

std::string layer_of(const Parameter& p) {
  return p.name.substr(0, p.name.size() - kWeight.size());
}

}  // namespace

Adapters::Adapters(Unet& base, const LoraOptions& options, WeightUse use)
    : base_(base), scale_(options.alpha / double(options.rank)), store_(base.device) {
  require(options.rank >= 1 && options.rank <= 4096, "[lora] rank: expected 1 to 4096, got ",
          options.rank);
  require(options.alpha > 0 && std::isfinite(options.alpha),
          "[lora] alpha: expected a positive number, got ", options.alpha);
  require(!options.targets.empty(), "[lora] targets: expected at least one layer, got none");
  ensure(base.store.use() == WeightUse::PassThrough,
         "[lora] the base's weights must be kept for backward");
  std::vector<bool> found(options.targets.size());
  for (Parameter& p : base.store.parameters()) {
    if (!is_linear_layer(p)) continue;
    std::string layer = layer_of(p);
    bool wanted = false;
    for (size_t i = 0; i < options.targets.size(); ++i)
      if (names(options.targets[i], layer)) wanted = found[i] = true;
    if (!wanted) continue;
    Parameter& a =
        store_.add(layer + ".lora_A.weight", {options.rank, p.shape[1]}, ParameterKind::Matrix);
    Parameter& b =
        store_.add(layer + ".lora_B.weight", {p.shape[0], options.rank}, ParameterKind::Matrix);
    a.pointwise = b.pointwise = p.pointwise;
    layers_.push_back({&p, {&a, &b, scale_}});
  }
  for (size_t i = 0; i < options.targets.size(); ++i)
    require(found[i], "[lora] targets: expected names of linear layers of the U-Net, got \"",
            options.targets[i], "\", which names none");
  store_.allocate(base.store.compute(), DType::F32, use);
}

Adapters::~Adapters() { deactivate(base_); }

void Adapters::initialise(const Philox& philox) {
  uint32_t number = 0;
  for (Layer& layer : layers_) {
    const Tensor& a = layer.low_rank.a->master;
    std::vector<float> values(size_t(a.numel()));
    philox.normal(values.data(), a.numel(), 0, number++, Draw::Adapter);
    float deviation = 1 / float(layer.low_rank.a->shape[0]);
    for (float& value : values) value *= deviation;
    base_.device.upload(a, values.data());
    base_.device.memory().clear(layer.low_rank.b->master);
  }
  store_.commit();
}

void Adapters::load(const std::string& path) {
  LoraFile file(path, base_.store);
  require(file.layers().size() == layers_.size(), path, ": expected adapters of ", layers_.size(),
          " layers, got ", file.layers().size());
  for (Layer& layer : layers_) {
    const LoraLayer* found = file.find(layer.weight->name);
    require(found != nullptr, path, ": ", layer.weight->name, ": expected an adapter, got none");
    require(found->rank() == layer.low_rank.a->shape[0], path, ": ", found->down->name,
            ": expected rank ", layer.low_rank.a->shape[0], ", got ", found->rank());
    std::vector<float> down = file.read(*found->down), up = file.read(*found->up);
    double ratio = found->scale / scale_;
    for (float& value : up) value = float(ratio * double(value));
    base_.device.upload(layer.low_rank.a->master, down.data());
    base_.device.upload(layer.low_rank.b->master, up.data());
  }
  store_.commit();
}

void Adapters::save(const std::string& path, const Tensor& arena) const {
  std::vector<TensorToWrite> tensors;
  for (const Layer& layer : layers_)
    for (const Parameter* p : {layer.low_rank.a, layer.low_rank.b}) {
      double factor = p == layer.low_rank.b ? scale_ : 1;
      tensors.push_back({"unet." + p->name, FileType::F32, file_shape(*p),
                         [this, p, arena, factor](const ByteSink& sink) {
                           std::vector<float> values =
                               base_.device.download<float>(arena.slice(p->offset, p->shape));
                           for (float& value : values) value = float(factor * double(value));
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
    tensors.push_back(
        {p.name, FileType::F32, file_shape(p), [this, &p, low_rank, arena](const ByteSink& sink) {
           std::vector<float> out(size_t(p.shape.numel()));
           to_file_layout(p, base_.device.download<float>(p.master).data(), out.data());
           if (low_rank) {
             auto values = [&](const Parameter& part) {
               return base_.device.download<float>(arena.slice(part.offset, part.shape));
             };
             std::vector<float> a = values(*low_rank->a), b = values(*low_rank->b);
             int64_t rank = low_rank->a->shape[0], k = low_rank->a->shape[1],
                     n = low_rank->b->shape[0];
             for (int64_t i = 0; i < n; ++i)
               for (int64_t j = 0; j < k; ++j) {
                 double sum = 0;
                 for (int64_t r = 0; r < rank; ++r)
                   sum += double(b[size_t(i * rank + r)]) * double(a[size_t(r * k + j)]);
                 out[size_t(i * k + j)] =
                     float(double(out[size_t(i * k + j)]) + low_rank->scale * sum);
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
