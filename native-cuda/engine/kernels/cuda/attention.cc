// Attention: the first of the ports (fused_attention.h) that takes a call's shapes does it.
#include "kernels/cuda/cuda_kernels.h"

namespace spindle::cuda {

FusedAttention& CudaKernels::attention_for(const Tensor& q,
                                           const Tensor& k,
                                           const AttentionArgs& args,
                                           bool gradients) {
  AttentionShape shape(q, k, args);
  for (auto& each : libraries_.attention)
    if (each->takes(shape, gradients)) return *each;
  throw Error(Code::InvalidArgument,
              cat("[cuda] attention: expected heads that a kernel takes (at most 256 wide, a "
                  "multiple of 8 in bfloat16), got ",
                  dtype_name(shape.dtype), " heads of width ", shape.width, in_operation()));
}

void CudaKernels::run(const AttentionForward& op) {
  Call call(device_, op.kName, op.q, op.k);
  attention_for(op.q, op.k, op.args, false).forward(op);
}

void CudaKernels::run(const AttentionBackward& op) {
  if (!op.dq && !op.dk && !op.dv) return;
  Call call(device_, op.kName, op.q, op.k);
  attention_for(op.q, op.k, op.args, true).backward(op);
}

}  // namespace spindle::cuda
