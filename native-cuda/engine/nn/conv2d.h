// Convolution with a square filter larger than one pixel (1x1 filters are nn::Linear).
#pragma once
#include "ops/ops.h"

namespace spindle::nn {

struct Conv2dOptions {
  int64_t kernel = 3;
  Conv2dArgs args = {};
  bool bias = true;
};

// Optional operands, added to the output.
struct Conv2dExtras {
  Tensor per_image = {};  // (B, Co)
  Tensor residual = {};   // (B, Ho, Wo, Co)
};

struct Conv2d {
  Conv2d(const Scope& scope, int64_t in, int64_t out, const Conv2dOptions& options = {})
      : weight(scope.parameter("weight",
                               {out, options.kernel, options.kernel, in},
                               ParameterKind::Filter)),
        bias(options.bias ? scope.parameter("bias", {out}, ParameterKind::Vector) : nullptr),
        args(options.args) {}

  // x (B, H, W, Ci) -> (B, Ho, Wo, Co)
  Tensor operator()(Tape& tape, const Tensor& x, const Conv2dExtras& extras = {}) const {
    return ops::conv2d(tape, x, *weight,
                       {.bias = bias, .per_image = extras.per_image, .residual = extras.residual},
                       args);
  }

  Parameter* weight;
  Parameter* bias;  // null: none
  Conv2dArgs args;
};

}  // namespace spindle::nn
