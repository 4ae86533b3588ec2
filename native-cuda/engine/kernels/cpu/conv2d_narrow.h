// Convolutions of few channels; conv2d_narrow.cc says how.
#pragma once
#include "kernels/cpu/context.h"

namespace spindle::cpu {

enum class Narrow : uint8_t { No, Inputs, Outputs };
Narrow narrow_kind(const CpuContext& cpu, const Conv2dForward& op);
void narrow(CpuContext& cpu, const Conv2dForward& op, Narrow kind);

}  // namespace spindle::cpu
