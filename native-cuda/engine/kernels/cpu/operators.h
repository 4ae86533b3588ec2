// The kernels of this backend as free functions over a CpuContext; one file per family beside this
// one has their bodies.
#pragma once
#include "kernels/cpu/context.h"
#include "kernels/kernel_list.h"

namespace spindle::cpu {

#define SPINDLE_CPU_KERNEL(Op) void run(CpuContext& cpu, const Op& op);
SPINDLE_MATH_KERNELS(SPINDLE_CPU_KERNEL)
#undef SPINDLE_CPU_KERNEL

}  // namespace spindle::cpu
