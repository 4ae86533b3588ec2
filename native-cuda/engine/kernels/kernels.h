// What the engine computes: kernels.run(Scale{.y = y, .x = x, .factor = 2}). Operand structs are in
// kernels/operands, their list in kernel_list.h. A kernel allocates nothing but scratch and records
// nothing. A backend that lacks a kernel does not link, and the error names the kernel.
//
// Images are (B, H, W, C), convolution weights (Co, R, S, Ci), linear weights (N, K). Statistics,
// losses, parameter gradients and optimiser state are float32 (F64 in the reference kernels when
// the input is F64), whatever the activations are.
#pragma once
#include <string>

#include "kernels/kernel_list.h"

namespace spindle {

// What a backend did beside computing, since it was made.
struct KernelCounters {
  uint64_t packs = 0;               // weights brought into the backend's own layout
  uint64_t packed_bytes = 0;        // bytes written by that
  uint64_t system_allocations = 0;  // blocks that it asked of the system for itself
};

// The maths of models.
class Kernels {
 public:
  virtual ~Kernels() = default;
  virtual const char* name() const = 0;
  virtual KernelCounters counters() const { return {}; }
  // Which of several algorithms the backend's libraries took so far, as text for a checkpoint;
  // empty: it has no choice.
  virtual std::string algorithms() const { return {}; }
  // Takes those of a checkpoint from now on. Returns why that cannot be done here (another GPU or
  // library: the bytes will differ), or an empty text; throws Error(DataLoss) when the text is
  // damaged.
  virtual std::string pin_algorithms(const std::string& /*text*/) { return {}; }

  // True when products of bfloat16 activations take float32 weights, so that nobody has to hold
  // bfloat16 copies of them.
  virtual bool rounds_weights() const { return false; }
  // Takes over a frozen weight (Co,R,S,Ci) or (N,K) that only forward products of `compute`
  // activations will read. True: the backend holds it in its own form until forget_weight(), and
  // the caller may drop the values.
  virtual bool keep_weight(const Weight&, DType /*compute*/) { return false; }
  virtual void forget_weight(uint64_t /*id*/) {}

  SPINDLE_MATH_KERNELS(SPINDLE_DECLARE_KERNEL)
};

// What a step of training or sampling computes beside a model: its scalars, too, stay in the
// backend's memory.
class StepKernels {
 public:
  virtual ~StepKernels() = default;
  SPINDLE_STEP_KERNELS(SPINDLE_DECLARE_KERNEL)
};

}  // namespace spindle
