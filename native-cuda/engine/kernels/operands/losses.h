// Errors of predictions, and their gradients.
#pragma once
#include "kernels/operands/operand.h"

namespace spindle {

// The mean of squared differences per image.
struct MsePerImage {
  static constexpr const char* kName = "mse_per_image";
  Tensor errors;              // (B) float64: beta multiplies small differences of them
  Tensor prediction, target;  // (B,...)

  static auto outputs(auto& op) { return std::tie(op.errors); }
  static auto inputs(auto& op) { return std::tie(op.prediction, op.target); }
};

// dprediction[i] = weights[i] * 2 / n * (prediction - target), n = elements per image
struct MseBackward {
  static constexpr const char* kName = "mse_backward";
  Tensor dprediction;         // (B,...)
  Tensor prediction, target;  // (B,...)
  Tensor weights;             // (B) float32

  static auto outputs(auto& op) { return std::tie(op.dprediction); }
  static auto inputs(auto& op) { return std::tie(op.prediction, op.target, op.weights); }
};

}  // namespace spindle

#define SPINDLE_LOSS_KERNELS(X) \
  X(MsePerImage)                \
  X(MseBackward)
