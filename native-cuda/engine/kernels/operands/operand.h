// What operands are made of beside tensors. An operand struct (products.h and the others beside
// this file) names everything that one kernel reads and writes:
//   - outputs come first, then inputs, then arguments; its members are values, because a tensor is
//     a handle, so nothing that it names can be gone when the kernel runs;
//   - an operand with a default may be left out; one without must be given, or the call does not
//     compile;
//   - `outputs` and `inputs` tie its tensors, slots, weights and epilogues, for whoever handles
//     every kernel alike (kernels/profiled, test/through_device.h);
//   - the family's list at the end of its file is what the backends' declarations are made from.
#pragma once
#include <cstdint>
#include <tuple>

#include "core/tensor.h"

namespace spindle {

enum class Activation : uint8_t { None, Silu, Gelu, QuickGelu };  // Gelu is the exact one (erf)

// A weight matrix or filter. Once a backend keeps the weight of an id in its own form, `value` may
// be empty; `kept` is its shape then.
struct Weight {
  Tensor value;
  uint64_t id = 0;  // 0: never kept
  Shape kept = {};

  const Shape& shape() const { return value ? value.shape() : kept; }
  Weight reshape(const Shape& shape) const {
    return {value ? value.reshape(shape) : Tensor(), id, shape};
  }
};

// What a convolution or matmul adds after the sum; empty tensors mean "none".
//   y = activation(sum + bias + per_image[image]) + residual
struct Epilogue {
  Tensor bias = {};       // (Co)
  Tensor per_image = {};  // (B, Co): the time embedding of a resnet block
  Tensor residual = {};   // shape of y
  Activation activation = Activation::None;
  // Of a linear layer over pixels: how exact a sum has to be may depend on it.
  int64_t positions_per_image = 1;
};

// Where a gradient goes. An empty tensor means "not needed"; `accumulate` adds to what is there.
struct GradSlot {
  Tensor tensor;
  bool accumulate = false;
  explicit operator bool() const { return bool(tensor); }
};

}  // namespace spindle
