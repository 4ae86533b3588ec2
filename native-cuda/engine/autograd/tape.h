// A linear tape: nodes in execution order, popped in backward, which frees what they saved. No
// graph, no sort.
//
// Rule of the house: an op computes its output, then calls record() with a closure that writes the
// gradients of its inputs into slots. The closure's captures are the saved-for-backward list:
// capture a Tensor when its values are needed, a TensorRef when only its identity is. When the tape
// does not record, the closure is never stored and inputs can die at once.
//
// What is cheap to compute again need not be kept: an op whose output follows from tensors that are
// kept anyway (norms, gates, concatenations) calls recompute() with how. An op that needs its
// input's values in backward captures `tape.save(x)`, which holds the recipe then instead of the
// tensor; the first get() computes, the last one that is still to come lets go.
//
// With checkpoints, what a part of the model saved goes as soon as the part is done, and backward
// runs the part again before its own nodes (Chen et al., arXiv 1604.06174): checkpoint() wraps such
// a part. The nodes and their order stay what they were, so gradients are the same to the last bit.
//
// Gradients are kept per storage: a tensor and its reshapes share one. `GradSlot slot =
// grads.slot(x)` is empty when x needs no gradient; otherwise write to it, adding when
// slot.accumulate says so.
#pragma once
#include <functional>
#include <memory>
#include <unordered_map>
#include <vector>

#include "autograd/parameter.h"

namespace spindle {

class Grads {
 public:
  explicit Grads(Device& device) : device_(device) {}
  Kernels& kernels() { return device_.kernels(); }
  Device& device() { return device_; }
  // Where the gradient of x goes; empty when x needs none.
  GradSlot slot(const TensorRef& x);
  // For kernels that write several gradients at once into inputs that may share storage (attention
  // of x with itself): a gradient of its own, not in here until add(). Empty when x needs none.
  GradSlot separate(const TensorRef& x) {
    return x.needs_grad ? GradSlot{device_.empty(x.shape, x.dtype)} : GradSlot();
  }
  // Adds a finished gradient; shares it (copy on write) when it is the first.
  void add(const TensorRef& x, const Tensor& gradient);
  // The gradient so far, in x's shape; empty when nothing reached x.
  Tensor get(const TensorRef& x) const;
  Tensor take(const TensorRef& x);

 private:
  Device& device_;
  std::unordered_map<uint64_t, Tensor> by_storage_;
};

// A tensor that backward will read, or how to compute it.
class SavedTensor {
 public:
  SavedTensor(Tensor tensor) : tensor_(std::move(tensor)) {}  // NOLINT: implicit on purpose
  // Once per SavedTensor.
  Tensor get() const;

 private:
  friend class Tape;
  struct Recipe {
    std::function<Tensor()> make;
    Shape shape;
    Tensor made;
    int pending = 0;  // SavedTensor objects that have not asked yet
  };
  SavedTensor(std::shared_ptr<Recipe> recipe, const Shape& shape)
      : recipe_(std::move(recipe)), shape_(shape) {}
  Tensor tensor_;
  std::shared_ptr<Recipe> recipe_;
  Shape shape_;
};

class Tape {
 public:
  explicit Tape(Device& device, bool recording, bool checkpoints = false)
      : device_(device), recording_(recording), checkpoints_(checkpoints) {}
  Device& device() { return device_; }
  Kernels& kernels() { return device_.kernels(); }
  bool recording() const { return recording_; }
  size_t size() const { return nodes_.size(); }

  // `backward(grads, dy)`; stored only when recording. Marks y as needing a gradient.
  template <class F>
  void record(const char* name, const Tensor& y, F&& backward) {
    if (!recording_) return;
    y.set_needs_grad(true);
    nodes_.push_back({name, TensorRef(y), std::forward<F>(backward)});
  }

  // x for a node's captures: the values themselves, or their recipe.
  SavedTensor save(const Tensor& x);
  // `make()` computes y again (a fused y may differ in its last bit).
  template <class F>
  void recompute(const Tensor& y, F&& make) {
    if (recording_)
      recipes_[y.id()] = std::make_shared<SavedTensor::Recipe>(
          SavedTensor::Recipe{std::forward<F>(make), y.shape(), {}, 0});
  }

  // y = body(tape, inputs...), a part of the model that is run again in backward when this tape has
  // checkpoints: then the inputs are all that is kept. Move in what may die as the body goes along.
  template <class F, class... Inputs>
  Tensor checkpoint(F body, Inputs... inputs) {
    if (!recording_ || !checkpoints_) return body(*this, std::move(inputs)...);
    Tensor y;
    {
      Tape forgotten(device_, true);
      y = body(forgotten, inputs...);
    }
    record("checkpoint", y,
           [&device = device_, body = std::move(body), inputs...](Grads& grads, const Tensor& dy) {
             Tape again(device, true);
             Tensor y = body(again, inputs...);
             again.run_backward(grads, y, dy, {});
           });
    return y;
  }

  // Runs backward from y with its gradient dy; nodes are popped as they run. Gradients of leaves
  // (inputs with needs_grad set by hand) stay in the returned Grads; parameters' go to their arena.
  // `node_done` is called after each node (a checkpoint counts as one).
  Grads backward(const Tensor& y, const Tensor& dy, const std::function<void()>& node_done = {});

 private:
  void run_backward(Grads& grads,
                    const Tensor& y,
                    const Tensor& dy,
                    const std::function<void()>& node_done);

  struct Node {
    const char* name;
    TensorRef y;
    std::function<void(Grads&, const Tensor&)> backward;
  };
  Device& device_;
  bool recording_, checkpoints_;
  std::vector<Node> nodes_;
  std::unordered_map<uint64_t, std::shared_ptr<SavedTensor::Recipe>>
      recipes_;  // by storage; forward only
};

}  // namespace spindle
