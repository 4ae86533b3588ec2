#include "kernels/host_kernels.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace spindle {

void HostKernels::upload(const Tensor& y, const void* host) { std::memcpy(y.raw(), host, y.bytes()); }
void HostKernels::download(void* host, const Tensor& x) { std::memcpy(host, x.raw(), x.bytes()); }
void HostKernels::clear(const Tensor& y) { std::memset(y.raw(), 0, y.bytes()); }

void HostKernels::copy(const Tensor& y, const Tensor& x) {
  ensure(y.bytes() == x.bytes(), "[copy] ", x.shape(), " does not fit ", y.shape());
  std::memcpy(y.raw(), x.raw(), x.bytes());
}

void HostKernels::normal_noise(Tensor& noise, const Philox& philox, Draw draw, const Tensor& places) {
  int64_t images = noise.dim(0), size = noise.numel() / images;
  const double* place = places.data<double>();
  for (int64_t i = 0; i < images; ++i) philox.normal(noise.f32() + i * size, size, uint32_t(place[0]), uint32_t(int64_t(place[1]) + i), draw);
}

void HostKernels::diffuse(Tensor& noisy, Tensor& target, const Tensor& x, const Tensor& noise, const Tensor& coefficients) {
  int64_t images = coefficients.dim(0), size = x.numel() / images;
  for (int64_t i = 0; i < images * size; ++i) {
    const float* c = coefficients.f32() + i / size * 4;
    float from_x = x.f32()[i], from_noise = noise.f32()[i];
    noisy.f32()[i] = c[0] * from_x + c[1] * from_noise;
    // a coefficient of 0 keeps what is not finite out of the target
    target.f32()[i] = c[2] == 0 ? c[3] * from_noise : c[3] == 0 ? c[2] * from_x : c[2] * from_x + c[3] * from_noise;
  }
}

void HostKernels::clip_gradient(Tensor& scalars, const Tensor& gradient, double max_norm) {
  double* s = scalars.data<double>();
  s[kNorm] = std::sqrt(sum_of_squares(gradient));
  s[kFactor] = max_norm > 0 ? std::min(1.0, max_norm / (s[kNorm] + 1e-6)) : 1.0;
  s[kFinite] = std::isfinite(s[kNorm]) ? 1 : 0;
}

void HostKernels::optimizer_step(const OptimizerArenas& arenas, const Tensor& scalars, const AdamWArgs& args) {
  const double* s = scalars.data<double>();
  if (s[kFinite] == 0) return;
  AdamWArgs whole = args;
  whole.learning_rate = s[kLearningRate];
  whole.step = int64_t(s[kStep]);
  whole.grad_scale = s[kFactor];
  OptimizerArenas a = arenas;
  adamw(a.w, a.m, a.v, a.grad, whole);
  if (a.ema) lerp(a.ema, a.w, s[kEmaWeight]);
  if (a.low) cast(a.low, a.w);
}

}  // namespace spindle
