// Every kernel, by the name of its operand struct: SPINDLE_KERNELS(X) is X(Conv2dForward) and so
// on. The contract, the backends' declarations and what wraps a backend are made from this list.
#pragma once
#include "kernels/operands/attention.h"
#include "kernels/operands/elementwise.h"
#include "kernels/operands/losses.h"
#include "kernels/operands/movement.h"
#include "kernels/operands/norms.h"
#include "kernels/operands/optimizer.h"
#include "kernels/operands/products.h"
#include "kernels/operands/sampling.h"
#include "kernels/operands/training.h"

// Maths that models are made of.
#define SPINDLE_MATH_KERNELS(X)  \
  SPINDLE_PRODUCT_KERNELS(X)     \
  SPINDLE_NORM_KERNELS(X)        \
  SPINDLE_ATTENTION_KERNELS(X)   \
  SPINDLE_ELEMENTWISE_KERNELS(X) \
  SPINDLE_MOVEMENT_KERNELS(X)    \
  SPINDLE_LOSS_KERNELS(X)

// What a step of training or sampling computes beside a model.
#define SPINDLE_STEP_KERNELS(X) \
  SPINDLE_TRAINING_KERNELS(X)   \
  SPINDLE_OPTIMIZER_KERNELS(X)  \
  SPINDLE_SAMPLING_KERNELS(X)

#define SPINDLE_KERNELS(X) \
  SPINDLE_MATH_KERNELS(X)  \
  SPINDLE_STEP_KERNELS(X)

// A kernel in the contract, and in a backend.
#define SPINDLE_DECLARE_KERNEL(Op) virtual void run(const Op& op) = 0;
#define SPINDLE_OVERRIDE_KERNEL(Op) void run(const Op& op) override;
