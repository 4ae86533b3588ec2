// Gradient checks: what the tape computes for L = <y, dy> is compared with central differences of L
// in double, on the reference kernels; along dense random directions, which reach every element,
// and along single elements.
#pragma once
#include <functional>

#include "autograd/tape.h"
#include "check.h"
#include "tensors.h"

namespace spindle {

class GradCheck {
 public:
  using Function = std::function<Tensor(Tape&)>;
  GradCheck()
      : device(DeviceOptions{.backend = "reference", .threads = 1, .isa = "auto"}), store(device) {}

  Tensor input(const std::string& name, const Shape& shape) {
    Tensor x = uniform_tensor(device.pool(), shape, DType::F64, ++seed_);
    x.set_needs_grad(true);
    inputs_.push_back({name, x});
    return x;
  }
  Parameter& parameter(const std::string& name,
                       const Shape& shape,
                       ParameterKind kind = ParameterKind::Vector) {
    return store.add(name, shape, kind);
  }

  // Once, when all parameters are there.
  void allocate(bool trainable = true) {
    store.allocate(DType::F64, DType::F64, trainable);
    for (Parameter& p : store.parameters()) fill_uniform(p.master, ++seed_);
    store.commit();
  }

  // Gradients of one backward with the made-up dy; parameters' are in the store.
  Grads backward(const Function& f) {
    store.begin_gradients();
    Tape tape(device, true);
    Tensor y = f(tape);
    return tape.backward(y, dy_of(y));
  }

  void check(const Function& f) {
    Grads grads = backward(f);
    for (auto& [name, x] : inputs_) {
      Tensor gradient = grads.get(x);
      CHECK_THAT(bool(gradient), "no gradient of ", name);
      if (gradient) compare(name, x, reference::load(gradient), f);
    }
    for (Parameter& p : store.parameters()) {
      CHECK_THAT(p.grad_written, "no gradient of ", p.name);
      if (p.grad_written) compare(p.name, p.master, reference::load(p.grad), f);
    }
  }

  Device device;
  ParameterStore store;

 private:
  struct Input {
    std::string name;
    Tensor tensor;
  };

  Tensor dy_of(const Tensor& y) {
    return uniform_tensor(device.pool(), y.shape(), y.dtype(), 1000);
  }

  double loss(const Function& f) {
    Tape tape(device, false);
    Tensor y = f(tape);
    reference::Values values = reference::load(y), weights = reference::load(dy_of(y));
    double sum = 0;
    for (size_t i = 0; i < values.size(); ++i) sum += values[i] * weights[i];
    return sum;
  }

  void compare(const std::string& name,
               const Tensor& x,
               const reference::Values& gradient,
               const Function& f) {
    constexpr double kStep = 1e-5, kTolerance = 1e-6;
    constexpr int kDirections = 3, kElements = 6;
    reference::Values values = reference::load(x);
    for (int trial = 0; trial < kDirections + kElements; ++trial) {
      reference::Values direction(values.size());
      for (size_t i = 0; i < direction.size() && trial < kDirections; ++i)
        direction[i] = uniform(uint64_t(5000 + trial), i);
      if (trial >= kDirections)
        direction[size_t((uniform(6000, uint64_t(trial)) + 1) / 2 * double(values.size()))] = 1;
      double expected = 0, size = 0;
      for (size_t i = 0; i < values.size(); ++i) {
        expected += gradient[i] * direction[i];
        size += std::abs(gradient[i] * direction[i]);
      }
      auto shifted = [&](double step) {
        reference::Values moved = values;
        for (size_t i = 0; i < values.size(); ++i) moved[i] += step * direction[i];
        reference::store(x, moved);
        return loss(f);
      };
      double numeric = (shifted(kStep) - shifted(-kStep)) / (2 * kStep);
      CHECK_THAT(std::abs(numeric - expected) <= kTolerance * (1 + size), "gradient of ", name,
                 ": differences give ", numeric, ", backward ", expected);
    }
    reference::store(x, values);
  }

  std::vector<Input> inputs_;
  uint64_t seed_ = 0;
};

}  // namespace spindle
