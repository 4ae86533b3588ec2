#include "kernels/reference/reference_kernels.h"
#include "kernels/reference/values.h"

namespace spindle::reference {

namespace {
// One set of values that share a mean: `rows` rows of `width` neighbouring channels. A group norm
// has one per image and group, a layer norm one per row.
struct Block {
  int64_t first, rows, width, stride, channel;
};

template <class F>
void for_each(const Block& block, F&& f) {
  for (int64_t row = 0; row < block.rows; ++row)
    for (int64_t i = 0; i < block.width; ++i)
      f(size_t(block.first + row * block.stride + i), size_t(block.channel + i));
}

std::vector<Block> group_blocks(const Shape& x, int64_t groups) {
  int64_t batch = x[0], channels = x[-1], width = channels / groups,
          pixels = x.numel() / (batch * channels);
  std::vector<Block> blocks;
  for (int64_t b = 0; b < batch; ++b)
    for (int64_t g = 0; g < groups; ++g)
      blocks.push_back({b * pixels * channels + g * width, pixels, width, channels, g * width});
  return blocks;
}

std::vector<Block> row_blocks(const Shape& x) {
  int64_t channels = x[-1];
  std::vector<Block> blocks;
  for (int64_t row = 0; row < x.numel() / channels; ++row)
    blocks.push_back({row * channels, 1, channels, channels, 0});
  return blocks;
}

void forward(const Tensor& y,
             const Tensor& mean,
             const Tensor& rstd,
             const Tensor& x,
             const Tensor& gamma,
             const Tensor& beta,
             double eps,
             bool silu,
             const std::vector<Block>& blocks) {
  Values vx = load(x), vgamma = load(gamma), vbeta = load(beta), vy(vx.size()), vmean, vrstd;
  for (const Block& block : blocks) {
    double n = double(block.rows * block.width), sum = 0, squares = 0;
    for_each(block, [&](size_t i, size_t) { sum += vx[i]; });
    double mu = sum / n;
    for_each(block, [&](size_t i, size_t) { squares += (vx[i] - mu) * (vx[i] - mu); });
    double scale = 1 / std::sqrt(squares / n + eps);
    for_each(block, [&](size_t i, size_t c) {
      double value = (vx[i] - mu) * scale * vgamma[c] + vbeta[c];
      vy[i] = silu ? activate(value, Activation::Silu) : value;
    });
    vmean.push_back(mu);
    vrstd.push_back(scale);
  }
  store(y, vy);
  store(mean, vmean);
  store(rstd, vrstd);
}

struct NormInputs {
  const Tensor &dy, &x, &mean, &rstd, &gamma, &beta;  // beta is empty without silu
};

void backward(const GradSlot& dx,
              const GradSlot& dgamma,
              const GradSlot& dbeta,
              const NormInputs& in,
              bool silu,
              const std::vector<Block>& blocks) {
  Values vdy = load(in.dy), vx = load(in.x), vmean = load(in.mean), vrstd = load(in.rstd),
         vgamma = load(in.gamma), vbeta = load(in.beta);
  Values vdx(vx.size()), vdgamma(vgamma.size()), vdbeta(vgamma.size());
  for (size_t block_index = 0; block_index < blocks.size(); ++block_index) {
    const Block& block = blocks[block_index];
    double mu = vmean[block_index], scale = vrstd[block_index],
           n = double(block.rows * block.width), sum = 0, product = 0;
    for_each(block, [&](size_t i, size_t c) {
      double normal = (vx[i] - mu) * scale;
      if (silu) vdy[i] *= activate_derivative(normal * vgamma[c] + vbeta[c], Activation::Silu);
      vdgamma[c] += vdy[i] * normal;
      vdbeta[c] += vdy[i];
      sum += vdy[i] * vgamma[c];
      product += vdy[i] * vgamma[c] * normal;
    });
    for_each(block, [&](size_t i, size_t c) {
      vdx[i] = scale * (vdy[i] * vgamma[c] - sum / n - (vx[i] - mu) * scale * product / n);
    });
  }
  store(dx, std::move(vdx));
  store(dgamma, std::move(vdgamma));
  store(dbeta, std::move(vdbeta));
}
}  // namespace

void ReferenceKernels::run(const GroupNormForward& op) {
  forward(op.y, op.mean, op.rstd, op.x, op.gamma, op.beta, op.args.eps, op.args.silu,
          group_blocks(op.x.shape(), op.args.groups));
}

void ReferenceKernels::run(const GroupNormBackward& op) {
  backward(op.dx, op.dgamma, op.dbeta, {op.dy, op.x, op.mean, op.rstd, op.gamma, op.beta},
           op.args.silu, group_blocks(op.x.shape(), op.args.groups));
}

void ReferenceKernels::run(const LayerNormForward& op) {
  forward(op.y, op.mean, op.rstd, op.x, op.gamma, op.beta, op.eps, false, row_blocks(op.x.shape()));
}

void ReferenceKernels::run(const LayerNormBackward& op) {
  backward(op.dx, op.dgamma, op.dbeta, {op.dy, op.x, op.mean, op.rstd, op.gamma, Tensor()}, false,
           row_blocks(op.x.shape()));
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
