#include "kernels/host_kernels.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace spindle {

void HostKernels::upload(const Tensor& y, const void* host) {
  std::memcpy(y.raw(), host, y.bytes());
}
void HostKernels::download(void* host, const Tensor& x) { std::memcpy(host, x.raw(), x.bytes()); }
void HostKernels::clear(const Tensor& y) { std::memset(y.raw(), 0, y.bytes()); }

void HostKernels::copy(const Tensor& y, const Tensor& x) {
  ensure(y.bytes() == x.bytes(), "[copy] ", x.shape(), " does not fit ", y.shape());
  std::memcpy(y.raw(), x.raw(), x.bytes());
}

void HostKernels::normal_noise(Tensor& noise,
                               const Philox& philox,
                               Draw draw,
                               const Tensor& places) {
  int64_t images = noise.dim(0), size = noise.numel() / images;
  const double* place = places.data<double>();
  for (int64_t i = 0; i < images; ++i)
    philox.normal(noise.f32() + i * size, size, uint32_t(place[0]), uint32_t(int64_t(place[1]) + i),
                  draw);
}

void HostKernels::diffuse(Tensor& noisy,
                          Tensor& target,
                          const Tensor& x,
                          const Tensor& noise,
                          const Tensor& coefficients) {
  int64_t images = coefficients.dim(0), size = x.numel() / images;
  for (int64_t i = 0; i < images * size; ++i) {
    const float* c = coefficients.f32() + i / size * 4;
    float from_x = x.f32()[i], from_noise = noise.f32()[i];
    noisy.f32()[i] = c[0] * from_x + c[1] * from_noise;
    // a coefficient of 0 keeps what is not finite out of the target
    target.f32()[i] = c[2] == 0   ? c[3] * from_noise
                      : c[3] == 0 ? c[2] * from_x
                                  : c[2] * from_x + c[3] * from_noise;
  }
}

namespace {
const float* sampler_row(const SamplerTensors& s) {
  int64_t row = int64_t(*s.at.data<double>());
  ensure(row >= 0 && row < s.table.dim(0), "[sampler] step ", row, " of ", s.table.dim(0));
  return s.table.f32() + row * kSamplerColumns;
}
}  // namespace

void HostKernels::sampler_input(Tensor& input, Tensor& timesteps, const SamplerTensors& s) {
  const float *row = sampler_row(s), *x = s.memory.f32();
  int64_t n = s.memory.dim(1);
  for (int64_t i = 0; i < input.numel(); ++i) input.f32()[i] = row[kInputScale] * x[i % n];
  for (int64_t i = 0; i < timesteps.numel(); ++i) timesteps.f32()[i] = row[kTimestep];
}

void HostKernels::sampler_step(const SamplerTensors& s, const Tensor& output, const Tensor& noise) {
  const float* row = sampler_row(s);
  int64_t n = s.memory.dim(1);
  auto times = [&](SamplerColumn column, float value) {
    return row[column] == 0 ? 0.0f : row[column] * value;
  };
  for (int64_t i = 0; i < n; ++i) {
    auto memory = [&](SamplerRow r) -> float& { return s.memory.f32()[r * n + i]; };
    float x = memory(kLatents), m = output.f32()[i];
    if (output.numel() > n) m += row[kGuidance] * (output.f32()[n + i] - m);
    float v = std::clamp(times(kValueX, x) + times(kValueM, m), -row[kLimit], row[kLimit]);
    memory(kLatents) = times(kNextX, x) + times(kNextStart, memory(kStart)) + times(kNextM, m) +
                       times(kNextValue, v) + times(kNextH1, memory(kHistory1)) +
                       times(kNextH2, memory(kHistory2)) + times(kNextH3, memory(kHistory3)) +
                       times(kNextSum, memory(kSum)) +
                       (noise ? times(kNextNoise, noise.f32()[i]) : 0.0f);
    memory(kSum) = times(kSumKeep, memory(kSum)) + times(kSumM, m);
    if (row[kStore] != 0) memory(kStart) = x;
    if (row[kPush] == 0) continue;
    memory(kHistory3) = memory(kHistory2);
    memory(kHistory2) = memory(kHistory1);
    memory(kHistory1) = v;
  }
  *s.at.data<double>() += 1;
}

void HostKernels::clip_gradient(Tensor& scalars, const Tensor& gradient, double max_norm) {
  double* s = scalars.data<double>();
  s[kNorm] = std::sqrt(sum_of_squares(gradient));
  s[kFactor] = max_norm > 0 ? std::min(1.0, max_norm / (s[kNorm] + 1e-6)) : 1.0;
  s[kFinite] = std::isfinite(s[kNorm]) ? 1 : 0;
}

void HostKernels::optimizer_step(const OptimizerArenas& arenas,
                                 const Tensor& scalars,
                                 const AdamWArgs& args) {
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
