#include "autograd/parameter.h"

#include <algorithm>

namespace spindle {

namespace {
std::atomic<uint64_t> next_parameter_id{1};
// Parameters start on cache lines; padding stays zero in every arena, so that flat passes may run
// over it.
constexpr int64_t kAlign = 16;
}  // namespace

Parameter& ParameterStore::add(std::string name, const Shape& shape, ParameterKind kind) {
  ensure(!allocated_, "[parameters] ", name, " was added after allocation");
  ensure(!by_name_.contains(name), "[parameters] ", name, " was added twice");
  Parameter& p = parameters_.emplace_back();
  p.name = std::move(name);
  p.shape = shape;
  p.kind = kind;
  p.place = int64_t(parameters_.size()) - 1;
  p.id = next_parameter_id.fetch_add(1, std::memory_order_relaxed);
  by_name_[p.name] = &p;
  return p;
}

Parameter* ParameterStore::find(const std::string& name) {
  auto it = by_name_.find(name);
  return it == by_name_.end() ? nullptr : it->second;
}

void ParameterStore::allocate(DType compute, DType master, WeightUse use) {
  bool trainable = use == WeightUse::Trained;
  use_ = use;
  int64_t size = 0;
  numel_ = 0;
  for (Parameter& p : parameters_) {
    p.offset = size;
    size += (p.shape.numel() + kAlign - 1) / kAlign * kAlign;
    numel_ += p.shape.numel();
  }
  compute_ = compute;
  allocated_ = true;
  bool copies = compute == DType::BF16 && !device_.kernels().rounds_weights();
  if (trainable) {
    master_ = device_.zeros({size}, master);
    gradient_ = device_.zeros({size}, master);
    if (copies) bf16_shadow_ = device_.zeros({size}, DType::BF16);
  }
  for (Parameter& p : parameters_) {
    p.master = trainable ? master_.slice(p.offset, p.shape) : device_.empty(p.shape, master);
    if (trainable) p.grad = gradient_.slice(p.offset, p.shape);
    if (copies && p.kind != ParameterKind::Vector) {
      p.value =
          trainable ? bf16_shadow_.slice(p.offset, p.shape) : device_.empty(p.shape, DType::BF16);
    } else {
      p.value = p.master;
    }
  }
}

ParameterStore::~ParameterStore() {
  for (const Parameter& p : parameters_) device_.kernels().forget_weight(p.id);
}

void ParameterStore::commit(Parameter& p) {
  if (!p.master) return;
  if (p.value.dtype() != p.master.dtype()) device_.kernels().run(Cast{.y = p.value, .x = p.master});
  if (use_ != WeightUse::Frozen || p.kind == ParameterKind::Vector ||
      !device_.kernels().keep_weight(p.weight(), compute_))
    return;
  p.value = p.master = Tensor();
  device_.pool().trim();  // the next parameters' values come in while these go
}

void ParameterStore::commit() {
  for (Parameter& p : parameters_) commit(p);
}

void ParameterStore::begin_gradients() {
  for (Parameter& p : parameters_) p.grad_written = false;
}

void ParameterStore::watch(std::vector<Parameter*>* uses) {
  for (Parameter& p : parameters_) p.watcher = uses;
}

std::vector<bool> ParameterStore::written() const {
  std::vector<bool> written;
  for (const Parameter& p : parameters_) written.push_back(p.grad_written);
  return written;
}

void ParameterStore::set_written(const std::vector<bool>& written) {
  for (size_t i = 0; i < parameters_.size(); ++i) parameters_[i].grad_written = written[i];
}

void ParameterStore::finish_gradients() {
  for (Parameter& p : parameters_)
    if (p.grad && !p.grad_written) {
      device_.memory().clear(p.grad);
      p.grad_written = true;
    }
}

}  // namespace spindle
