#pragma once
#include "kernels/cpu/context.h"

namespace spindle::cpu {

// Gradients of a linear layer's weight and bias; matrix_weight_gradient.cc says how.
void matrix_weight_gradient(CpuContext& cpu, const LinearBackwardWeight& op);

}  // namespace spindle::cpu
