// Attention with queries in vector lanes; attention_lanes.cc says how.
#pragma once
#include "kernels/cpu/context.h"
#include "kernels/operands/attention.h"

namespace spindle::cpu {

bool attention_in_lanes(const CpuContext& cpu, const Tensor& q, const AttentionArgs& args);
void attention_in_lanes_forward(CpuContext& cpu, const AttentionForward& op);
void attention_in_lanes_backward(CpuContext& cpu, const AttentionBackward& op);

}  // namespace spindle::cpu
