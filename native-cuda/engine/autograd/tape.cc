#include "autograd/tape.h"

namespace spindle {

GradSlot Grads::slot(const TensorRef& x) {
  if (!x.needs_grad) return {};
  auto it = by_storage_.find(x.id);
  if (it == by_storage_.end()) {
    Tensor fresh = device_.empty(x.shape, x.dtype);
    by_storage_.emplace(x.id, fresh);
    return {fresh, false};
  }
  if (!it->second.unique()) {  // shared by add(): copy before it is written to
    Tensor copy = device_.empty(x.shape, x.dtype);
    device_.memory().copy(copy, it->second);
    it->second = copy;
  }
  return {it->second.reshape(x.shape), true};
}

void Grads::add(const TensorRef& x, const Tensor& gradient) {
  if (!x.needs_grad) return;
  if (by_storage_.find(x.id) == by_storage_.end()) {
    by_storage_.emplace(x.id, gradient.reshape(x.shape));
    return;
  }
  GradSlot s = slot(x);
  device_.kernels().run(Accumulate{.y = s.tensor, .x = gradient});
}

Tensor Grads::get(const TensorRef& x) const {
  auto it = by_storage_.find(x.id);
  return it == by_storage_.end() ? Tensor() : it->second.reshape(x.shape);
}

Tensor Grads::take(const TensorRef& x) {
  auto it = by_storage_.find(x.id);
  if (it == by_storage_.end()) return {};
  Tensor t = it->second.reshape(x.shape);
  by_storage_.erase(it);
  return t;
}

Tensor SavedTensor::get() const {
  if (!recipe_) return tensor_;
  Tensor made = recipe_->made ? recipe_->made : recipe_->make();
  recipe_->made = --recipe_->pending > 0 ? made : Tensor();
  return made.reshape(shape_);
}

SavedTensor Tape::save(const Tensor& x) {
  if (recording_)
    if (auto it = recipes_.find(x.id()); it != recipes_.end()) {
      ++it->second->pending;
      return {it->second, x.shape()};
    }
  return x;
}

Grads Tape::backward(const Tensor& y, const Tensor& dy, const std::function<void()>& node_done) {
  Grads grads(device_);
  run_backward(grads, y, dy, node_done);
  return grads;
}

void Tape::run_backward(Grads& grads,
                        const Tensor& y,
                        const Tensor& dy,
                        const std::function<void()>& node_done) {
  recipes_.clear();  // nodes hold those that are needed
  grads.add(TensorRef(y), dy);
  while (!nodes_.empty()) {
    Node node = std::move(nodes_.back());
    nodes_.pop_back();
    Tensor gradient = grads.take(node.y);
    if (gradient) node.backward(grads, gradient);
    if (node_done) node_done();
  }
}

}  // namespace spindle
