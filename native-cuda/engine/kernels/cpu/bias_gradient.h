#pragma once
#include "kernels/cpu/context.h"

namespace spindle::cpu {

// db (N) = sum of dy (...,N), float32
void bias_gradient(CpuContext& cpu, const GradSlot& db, const Tensor& dy);

}  // namespace spindle::cpu
