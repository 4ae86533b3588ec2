// Normalisation. Statistics are float32 (F64 where x is).
#pragma once
#include "kernels/operands/operand.h"

namespace spindle {

struct GroupNormArgs {
  int64_t groups;
  double eps;
  bool silu = false;  // y = silu(norm(x)) in one pass
};

struct GroupNormForward {
  static constexpr const char* kName = "group_norm_forward";
  Tensor y;            // (B,...,C)
  Tensor mean, rstd;   // (B,groups)
  Tensor x;            // (B,...,C)
  Tensor gamma, beta;  // (C)
  GroupNormArgs args;

  static auto outputs(auto& op) { return std::tie(op.y, op.mean, op.rstd); }
  static auto inputs(auto& op) { return std::tie(op.x, op.gamma, op.beta); }
};

struct GroupNormBackward {
  static constexpr const char* kName = "group_norm_backward";
  GradSlot dx = {};                  // (B,...,C)
  GradSlot dgamma = {}, dbeta = {};  // (C)
  Tensor dy, x;                      // (B,...,C)
  Tensor mean, rstd;                 // (B,groups), of forward
  Tensor gamma, beta;                // (C)
  GroupNormArgs args;

  static auto outputs(auto& op) { return std::tie(op.dx, op.dgamma, op.dbeta); }
  static auto inputs(auto& op) {
    return std::tie(op.dy, op.x, op.mean, op.rstd, op.gamma, op.beta);
  }
};

// A layer norm's rows are all elements but the last dimension's.
struct LayerNormForward {
  static constexpr const char* kName = "layer_norm_forward";
  Tensor y;            // (...,C)
  Tensor mean, rstd;   // (rows)
  Tensor x;            // (...,C)
  Tensor gamma, beta;  // (C)
  double eps;

  static auto outputs(auto& op) { return std::tie(op.y, op.mean, op.rstd); }
  static auto inputs(auto& op) { return std::tie(op.x, op.gamma, op.beta); }
};

struct LayerNormBackward {
  static constexpr const char* kName = "layer_norm_backward";
  GradSlot dx = {};                  // (...,C)
  GradSlot dgamma = {}, dbeta = {};  // (C)
  Tensor dy, x;                      // (...,C)
  Tensor mean, rstd;                 // (rows), of forward
  Tensor gamma;                      // (C)

  static auto outputs(auto& op) { return std::tie(op.dx, op.dgamma, op.dbeta); }
  static auto inputs(auto& op) { return std::tie(op.dy, op.x, op.mean, op.rstd, op.gamma); }
};

// Rows of length 1; a row of zeros stays as it is.
struct L2Normalize {
  static constexpr const char* kName = "l2_normalize";
  Tensor y;  // (...,C)
  Tensor x;  // (...,C)

  static auto outputs(auto& op) { return std::tie(op.y); }
  static auto inputs(auto& op) { return std::tie(op.x); }
};

}  // namespace spindle

#define SPINDLE_NORM_KERNELS(X) \
  X(GroupNormForward)           \
  X(GroupNormBackward)          \
  X(LayerNormForward)           \
  X(LayerNormBackward)          \
  X(L2Normalize)
