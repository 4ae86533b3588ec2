// y = x W^T + b over the last dimension. Also every 1x1 convolution: images are (B, H, W, C).
#pragma once
#include "ops/ops.h"

namespace spindle::nn {

struct LinearOptions {
  bool bias = true;
  bool pointwise = false;  // files hold the weight as a 1x1 filter
};

struct Linear {
  Linear(const Scope& scope, int64_t in, int64_t out, const LinearOptions& options = {})
      : weight(options.pointwise ? scope.pointwise("weight", out, in)
                                 : scope.parameter("weight", {out, in}, ParameterKind::Matrix)),
        bias(options.bias ? scope.parameter("bias", {out}, ParameterKind::Vector) : nullptr) {}

  // x (..., in) -> (..., out), plus `residual` of the output's size
  Tensor operator()(Tape& tape, const Tensor& x, const Tensor& residual = {}) const {
    return ops::linear(tape, x, *weight, {.bias = bias, .per_image = {}, .residual = residual});
  }

  Parameter* weight;
  Parameter* bias;  // null: none
};

}  // namespace spindle::nn
