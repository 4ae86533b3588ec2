// Normalisation layers with scale and shift.
#pragma once
#include "ops/ops.h"

namespace spindle::nn {

struct GroupNorm {
  GroupNorm(const Scope& scope, int64_t channels, const GroupNormArgs& args)
      : weight(scope.parameter("weight", {channels}, ParameterKind::Vector)),
        bias(scope.parameter("bias", {channels}, ParameterKind::Vector)),
        args(args) {
    require(args.groups > 0 && channels % args.groups == 0, "[group_norm] ", scope.path(), ": ",
            channels, " channels are not divisible into ", args.groups, " groups");
  }
  // x (B, ..., C)
  Tensor operator()(Tape& tape, const Tensor& x) const {
    return ops::group_norm(tape, x, *weight, *bias, args);
  }

  Parameter* weight;
  Parameter* bias;
  GroupNormArgs args;
};

struct LayerNorm {
  LayerNorm(const Scope& scope, int64_t width, double eps = 1e-5)
      : weight(scope.parameter("weight", {width}, ParameterKind::Vector)),
        bias(scope.parameter("bias", {width}, ParameterKind::Vector)),
        eps(eps) {}
  // x (..., C)
  Tensor operator()(Tape& tape, const Tensor& x) const {
    return ops::layer_norm(tape, x, *weight, *bias, eps);
  }

  Parameter* weight;
  Parameter* bias;
  double eps;
};

}  // namespace spindle::nn
