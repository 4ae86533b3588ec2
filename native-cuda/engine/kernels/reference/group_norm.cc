// Group norm: a block per image and group.
#include "kernels/reference/norm.h"
#include "kernels/reference/reference_kernels.h"

namespace spindle::reference {

namespace {

std::vector<NormBlock> group_blocks(const Shape& x, int64_t groups) {
  int64_t batch = x[0], channels = x[-1], width = channels / groups,
          pixels = x.numel() / (batch * channels);
  std::vector<NormBlock> blocks;
  for (int64_t b = 0; b < batch; ++b)
    for (int64_t g = 0; g < groups; ++g)
      blocks.push_back({b * pixels * channels + g * width, pixels, width, channels, g * width});
  return blocks;
}

}  // namespace

void ReferenceKernels::run(const GroupNormForward& op) {
  norm_forward(op.y, op.mean, op.rstd, op.x, op.gamma, op.beta, op.args.eps, op.args.silu,
               group_blocks(op.x.shape(), op.args.groups));
}

void ReferenceKernels::run(const GroupNormBackward& op) {
  norm_backward(op.dx, op.dgamma, op.dbeta, {op.dy, op.x, op.mean, op.rstd, op.gamma, op.beta},
                op.args.silu, group_blocks(op.x.shape(), op.args.groups));
}

}  // namespace spindle::reference
