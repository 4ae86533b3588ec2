// What a training step computes beside the model: noise, noisy images and the loss of pairs.
#pragma once
#include "core/rng.h"
#include "kernels/operands/operand.h"

namespace spindle {

// Row i of noise: the standard normal values of `philox` for sample places[1] + i at step
// places[0].
struct NormalNoise {
  static constexpr const char* kName = "normal_noise";
  Tensor noise;  // (B,...) float32
  Philox philox;
  Draw draw;
  Tensor places;  // (2) float64

  static auto outputs(auto& op) { return std::tie(op.noise); }
  static auto inputs(auto& op) { return std::tie(op.places); }
};

// noisy = c[0] x + c[1] noise, target = c[2] x + c[3] noise, with c the image's row of
// coefficients. All float32.
struct Diffuse {
  static constexpr const char* kName = "diffuse";
  Tensor noisy, target;  // (B,...)
  Tensor x, noise;       // (B,...)
  Tensor coefficients;   // (B,4)

  static auto outputs(auto& op) { return std::tie(op.noisy, op.target); }
  static auto inputs(auto& op) { return std::tie(op.x, op.noise, op.coefficients); }
};

// Losses of train/objective.h that a backend may compute in its own memory.
enum class PairLoss : uint8_t { Logistic, Hinge, Ipo, Plain };

// The loss and d loss / d error of every image. Errors are the real images' first, then the
// generated ones'; of Plain, real ones alone, and no opponent. Host backends leave it to
// train/objective.h.
struct PairLossWeights {
  static constexpr const char* kName = "pair_loss";
  Tensor weights;               // (2B) float32
  Tensor loss;                  // (1) float64
  Tensor errors;                // (2B) float64
  Tensor opponent_errors = {};  // (2B) float64
  Tensor settings;              // (2) float64: beta, and the scale of every term
  Tensor factors = {};          // (B) float64: of each pair's errors; empty: 1; not of Plain
  PairLoss kind;

  static auto outputs(auto& op) { return std::tie(op.weights, op.loss); }
  static auto inputs(auto& op) {
    return std::tie(op.errors, op.opponent_errors, op.settings, op.factors);
  }
};

}  // namespace spindle

#define SPINDLE_TRAINING_KERNELS(X) \
  X(NormalNoise)                    \
  X(Diffuse)                        \
  X(PairLossWeights)
