// TimestepEmbedding: two linear layers with SiLU between.
#pragma once
#include "nn/linear.h"

namespace spindle::nn {

struct TimestepEmbedding {
  TimestepEmbedding(const Scope& scope, int64_t in, int64_t width)
      : linear_1(scope / "linear_1", in, width), linear_2(scope / "linear_2", width, width) {}
  // x (B, in), plus `residual` (B, width) -> (B, width)
  Tensor operator()(Tape& tape, const Tensor& x, const Tensor& residual = {}) const {
    return linear_2(tape, ops::activation(tape, linear_1(tape, x), Activation::Silu), residual);
  }

  Linear linear_1, linear_2;
};

}  // namespace spindle::nn
