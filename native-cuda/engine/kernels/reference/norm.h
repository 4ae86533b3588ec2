// What group norm and layer norm have in common: values in blocks that share a mean and a
// deviation.
#pragma once
#include "kernels/reference/values.h"

namespace spindle::reference {

// One set of values that share a mean: `rows` rows of `width` neighbouring channels. A group norm
// has one per image and group, a layer norm one per row.
struct NormBlock {
  int64_t first, rows, width, stride, channel;
};

template <class F>
void for_each(const NormBlock& block, F&& f) {
  for (int64_t row = 0; row < block.rows; ++row)
    for (int64_t i = 0; i < block.width; ++i)
      f(size_t(block.first + row * block.stride + i), size_t(block.channel + i));
}

inline void norm_forward(const Tensor& y,
                         const Tensor& mean,
                         const Tensor& rstd,
                         const Tensor& x,
                         const Tensor& gamma,
                         const Tensor& beta,
                         double eps,
                         bool silu,
                         const std::vector<NormBlock>& blocks) {
  Values vx = load(x), vgamma = load(gamma), vbeta = load(beta), vy(vx.size()), vmean, vrstd;
  for (const NormBlock& block : blocks) {
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

inline void norm_backward(const GradSlot& dx,
                          const GradSlot& dgamma,
                          const GradSlot& dbeta,
                          const NormInputs& in,
                          bool silu,
                          const std::vector<NormBlock>& blocks) {
  Values vdy = load(in.dy), vx = load(in.x), vmean = load(in.mean), vrstd = load(in.rstd),
         vgamma = load(in.gamma), vbeta = load(in.beta);
  Values vdx(vx.size()), vdgamma(vgamma.size()), vdbeta(vgamma.size());
  for (size_t block_index = 0; block_index < blocks.size(); ++block_index) {
    const NormBlock& block = blocks[block_index];
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

}  // namespace spindle::reference
