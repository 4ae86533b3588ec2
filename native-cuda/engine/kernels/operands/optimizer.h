// Clipping and AdamW over flat float32 arenas.
#pragma once
#include "kernels/operands/operand.h"

namespace spindle {

// The scalars of one optimiser step, a float64 tensor in the backend's memory. The host writes the
// first ones before the step, ClipGradient the others.
enum StepScalar : int64_t {
  kLearningRate,
  kStep,
  kCorrection1,
  kCorrection2,
  kEmaWeight,
  kNorm,
  kFactor,
  kFinite,
  kStepScalars
};

// scalars[kNorm] = |gradient|, [kFactor] = min(1, max_norm / (norm + 1e-6)) (1 where max_norm is
// 0), [kFinite] = norm is finite
struct ClipGradient {
  static constexpr const char* kName = "clip_gradient";
  Tensor scalars;   // (kStepScalars) float64
  Tensor gradient;  // (n) float32
  double max_norm;

  static auto outputs(auto& op) { return std::tie(op.scalars); }
  static auto inputs(auto& op) { return std::tie(op.gradient); }
};

// Flat arenas of one store, all (n) float32 but the bfloat16 shadow of the weights; the average
// and the shadow may be empty.
struct OptimizerArenas {
  Tensor w, m, v, grad;
  Tensor ema = {}, bf16 = {};
};

struct AdamWArgs {
  double beta1, beta2, epsilon, weight_decay;
};

// One pass over all: AdamW with the gradient times scalars[kFactor], the average, the shadow;
// nothing where not scalars[kFinite].
struct OptimizerStep {
  static constexpr const char* kName = "optimizer_step";
  OptimizerArenas arenas;  // all but the gradient are read and written
  Tensor scalars;          // (kStepScalars) float64, after ClipGradient
  AdamWArgs args;

  static auto outputs(auto& op) {
    return std::tie(op.arenas.w, op.arenas.m, op.arenas.v, op.arenas.ema, op.arenas.bf16);
  }
  static auto inputs(auto& op) { return std::tie(op.arenas.grad, op.scalars); }
};

}  // namespace spindle

#define SPINDLE_OPTIMIZER_KERNELS(X) \
  X(ClipGradient)                    \
  X(OptimizerStep)
