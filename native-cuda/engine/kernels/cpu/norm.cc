#include <cmath>

#include "kernels/cpu/cpu_kernels.h"

namespace spindle::cpu {

namespace {
// Pixels of one statistics task: fixed, so that partial sums do not depend on threads.
constexpr int64_t kPixels = 256;
// Rows of one layer norm task.
constexpr int64_t kRows = 64;

float* floats(Tensor& t) { return t.f32(); }
}  // namespace

void CpuKernels::group_norm_forward(Tensor& y, Tensor& mean, Tensor& rstd, const Tensor& x, const Tensor& gamma, const Tensor& beta, const GroupNormArgs& args) {
  int64_t batch = x.dim(0), channels = x.dim(-1), pixels = x.numel() / batch / channels, per_group = channels / args.groups;
  int64_t blocks = divide_up(pixels, kPixels);
  bool bf16 = is_bf16(x);
  std::vector<double> partial(size_t(batch * blocks * channels));
  std::vector<float> channel_mean(size_t(batch * channels)), scale(size_t(batch * channels));
  auto block_of = [&](int64_t task, int64_t& image, int64_t& p0, int64_t& count) {
    image = task / blocks;
    p0 = task % blocks * kPixels;
    count = std::min(kPixels, pixels - p0);
  };
  // Sum of a group's partials, in a fixed order.
  auto group_total = [&](int64_t image, int64_t group) {
    double total = 0;
    for (int64_t b = 0; b < blocks; ++b)
      for (int64_t c = 0; c < per_group; ++c) total += partial[size_t((image * blocks + b) * channels + group * per_group + c)];
    return total;
  };
  double n = double(pixels * per_group);
  threads_.run(batch * blocks, [&](int64_t task, int) {
    int64_t image, p0, count;
    block_of(task, image, p0, count);
    simd_.channel_sums(partial.data() + task * channels, at(x.raw(), (image * pixels + p0) * channels, x.dtype()), count, channels, bf16);
  });
  for (int64_t i = 0; i < batch; ++i)
    for (int64_t g = 0; g < args.groups; ++g) {
      float m = float(group_total(i, g) / n);
      floats(mean)[i * args.groups + g] = m;
      for (int64_t c = 0; c < per_group; ++c) channel_mean[size_t(i * channels + g * per_group + c)] = m;
    }
  std::fill(partial.begin(), partial.end(), 0.0);
  threads_.run(batch * blocks, [&](int64_t task, int) {
    int64_t image, p0, count;
    block_of(task, image, p0, count);
    simd_.channel_square_sums(partial.data() + task * channels, at(x.raw(), (image * pixels + p0) * channels, x.dtype()), channel_mean.data() + image * channels, count, channels, bf16);
  });
  const float *w = gamma.f32(), *b = beta.f32();
  for (int64_t i = 0; i < batch; ++i)
    for (int64_t g = 0; g < args.groups; ++g) {
      float r = float(1.0 / std::sqrt(group_total(i, g) / n + args.eps));
      floats(rstd)[i * args.groups + g] = r;
      for (int64_t c = g * per_group; c < (g + 1) * per_group; ++c) scale[size_t(i * channels + c)] = r * w[c];
    }
  threads_.run(batch * blocks, [&](int64_t task, int) {
    int64_t image, p0, count;
    block_of(task, image, p0, count);
    int64_t first = (image * pixels + p0) * channels;
    simd_.normalize(at(y.raw(), first, y.dtype()), at(x.raw(), first, x.dtype()), channel_mean.data() + image * channels, scale.data() + image * channels, b, count, channels, args.silu, bf16);
  });
}

void CpuKernels::group_norm_backward(const GradSlot& dx, const GradSlot& dgamma, const GradSlot& dbeta, const Tensor& dy, const Tensor& x, const Tensor& mean, const Tensor& rstd, const Tensor& gamma, const Tensor& beta, const GroupNormArgs& args) {
  int64_t batch = x.dim(0), channels = x.dim(-1), pixels = x.numel() / batch / channels, per_group = channels / args.groups;
  int64_t blocks = divide_up(pixels, kPixels);
  bool bf16 = is_bf16(x);
  size_t per_channel = size_t(batch * channels);
  std::vector<double> partial_dz(size_t(batch * blocks * channels)), partial_xhat(partial_dz.size()), sum_dz(per_channel), sum_xhat(per_channel);
  std::vector<float> m(per_channel), r(per_channel), scale(per_channel), c_dz(per_channel), c_x(per_channel), c_1(per_channel);
  const float *w = gamma.f32(), *b = beta.f32(), *mu = mean.f32(), *rs = rstd.f32();
  for (int64_t i = 0; i < batch; ++i)
    for (int64_t c = 0; c < channels; ++c) {
      size_t j = size_t(i * channels + c);
      m[j] = mu[i * args.groups + c / per_group];
      r[j] = rs[i * args.groups + c / per_group];
      scale[j] = r[j] * w[c];
    }
  threads_.run(batch * blocks, [&](int64_t task, int) {
    int64_t image = task / blocks, p0 = task % blocks * kPixels, count = std::min(kPixels, pixels - p0), first = (image * pixels + p0) * channels, j = image * channels;
    simd_.norm_gradient_sums(partial_dz.data() + task * channels, partial_xhat.data() + task * channels, at(dy.raw(), first, dy.dtype()), at(x.raw(), first, x.dtype()),
                             scale.data() + j, b, m.data() + j, r.data() + j, count, channels, args.silu, bf16);
  });
  for (int64_t i = 0; i < batch; ++i)
    for (int64_t k = 0; k < blocks; ++k)
      for (int64_t c = 0; c < channels; ++c) {
        sum_dz[size_t(i * channels + c)] += partial_dz[size_t((i * blocks + k) * channels + c)];
        sum_xhat[size_t(i * channels + c)] += partial_xhat[size_t((i * blocks + k) * channels + c)];
      }
  auto store_sum = [&](const GradSlot& slot, const std::vector<double>& per_image) {
    if (!slot) return;
    for (int64_t c = 0; c < channels; ++c) {
      double total = 0;
      for (int64_t i = 0; i < batch; ++i) total += per_image[size_t(i * channels + c)];
      slot.tensor.f32()[c] = (slot.accumulate ? slot.tensor.f32()[c] : 0.0f) + float(total);
    }
  };
  store_sum(dgamma, sum_xhat);
  store_sum(dbeta, sum_dz);
  if (!dx) return;
  double n = double(pixels * per_group);
  for (int64_t i = 0; i < batch; ++i)
    for (int64_t g = 0; g < args.groups; ++g) {
      double a = 0, s = 0;
      for (int64_t c = g * per_group; c < (g + 1) * per_group; ++c) {
        a += double(w[c]) * sum_dz[size_t(i * channels + c)];
        s += double(w[c]) * sum_xhat[size_t(i * channels + c)];
      }
      // dx = rstd * (gamma * dz - a / n - xhat * s / n), written as dz * c_dz + (x - mean) * c_x + c_1
      double rstd_g = rs[i * args.groups + g];
      for (int64_t c = g * per_group; c < (g + 1) * per_group; ++c) {
        size_t j = size_t(i * channels + c);
        c_dz[j] = float(rstd_g * double(w[c]));
        c_x[j] = float(-rstd_g * rstd_g * s / n);
        c_1[j] = float(-rstd_g * a / n);
      }
    }
  threads_.run(batch * blocks, [&](int64_t task, int) {
    int64_t image = task / blocks, p0 = task % blocks * kPixels, count = std::min(kPixels, pixels - p0), first = (image * pixels + p0) * channels, j = image * channels;
    simd_.norm_gradient_apply(at(dx.tensor.raw(), first, dx.tensor.dtype()), at(dy.raw(), first, dy.dtype()), at(x.raw(), first, x.dtype()), m.data() + j, scale.data() + j, b,
                              c_dz.data() + j, c_x.data() + j, c_1.data() + j, count, channels, args.silu, dx.accumulate, bf16);
  });
}

void CpuKernels::layer_norm_forward(Tensor& y, Tensor& mean, Tensor& rstd, const Tensor& x, const Tensor& gamma, const Tensor& beta, double eps) {
  int64_t channels = x.dim(-1), rows = x.numel() / channels;
  pieces(rows, kRows, [&](int64_t r0, int64_t r1, int) {
    simd_.layer_norm(at(y.raw(), r0 * channels, y.dtype()), mean.f32() + r0, rstd.f32() + r0, at(x.raw(), r0 * channels, x.dtype()), gamma.f32(), beta.f32(), eps, r1 - r0, channels, is_bf16(x));
  });
}

void CpuKernels::layer_norm_backward(const GradSlot& dx, const GradSlot& dgamma, const GradSlot& dbeta, const Tensor& dy, const Tensor& x, const Tensor& mean, const Tensor& rstd, const Tensor& gamma) {
  int64_t channels = x.dim(-1), rows = x.numel() / channels, tasks = divide_up(rows, kRows);
  std::vector<float> partial(dgamma || dbeta ? size_t(2 * tasks * channels) : 0);
  pieces(rows, kRows, [&](int64_t r0, int64_t r1, int) {
    float* p = partial.empty() ? nullptr : partial.data() + r0 / kRows * 2 * channels;
    simd_.layer_norm_backward(dx ? at(dx.tensor.raw(), r0 * channels, dx.tensor.dtype()) : nullptr, p, p ? p + channels : nullptr, at(dy.raw(), r0 * channels, dy.dtype()),
                              at(x.raw(), r0 * channels, x.dtype()), mean.f32() + r0, rstd.f32() + r0, gamma.f32(), r1 - r0, channels, dx.accumulate, is_bf16(x));
  });
  auto store_sum = [&](const GradSlot& slot, int64_t offset) {
    if (!slot) return;
    for (int64_t c = 0; c < channels; ++c) {
      double total = 0;
      for (int64_t t = 0; t < tasks; ++t) total += double(partial[size_t(t * 2 * channels + offset + c)]);
      slot.tensor.f32()[c] = (slot.accumulate ? slot.tensor.f32()[c] : 0.0f) + float(total);
    }
  };
  store_sum(dgamma, 0);
  store_sum(dbeta, channels);
}

}  // namespace spindle::cpu
