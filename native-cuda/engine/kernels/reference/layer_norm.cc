// Layer norm, a block per row; and rows of length 1.
#include "kernels/reference/norm.h"
#include "kernels/reference/reference_kernels.h"

namespace spindle::reference {

namespace {

std::vector<NormBlock> row_blocks(const Shape& x) {
  int64_t channels = x[-1];
  std::vector<NormBlock> blocks;
  for (int64_t row = 0; row < x.numel() / channels; ++row)
    blocks.push_back({row * channels, 1, channels, channels, 0});
  return blocks;
}

}  // namespace

void ReferenceKernels::run(const LayerNormForward& op) {
  norm_forward(op.y, op.mean, op.rstd, op.x, op.gamma, op.beta, op.eps, false,
               row_blocks(op.x.shape()));
}

void ReferenceKernels::run(const LayerNormBackward& op) {
  norm_backward(op.dx, op.dgamma, op.dbeta, {op.dy, op.x, op.mean, op.rstd, op.gamma, Tensor()},
                false, row_blocks(op.x.shape()));
}

void ReferenceKernels::run(const L2Normalize& op) {
  int64_t width = op.x.dim(-1), rows = op.x.numel() / width;
  Values values = load(op.x);
  for (int64_t row = 0; row < rows; ++row) {
    double squares = 0;
    for (int64_t i = 0; i < width; ++i)
      squares += at(values, row, i, width) * at(values, row, i, width);
    // a row of zeros has no direction and stays as it is
    double factor = squares > 0 ? 1 / std::sqrt(squares) : 0;
    for (int64_t i = 0; i < width; ++i) at(values, row, i, width) *= factor;
  }
  store(op.y, values);
}

}  // namespace spindle::reference
