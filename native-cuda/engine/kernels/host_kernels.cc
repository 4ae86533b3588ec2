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

void HostKernels::run(const NormalNoise& op) {
  int64_t images = op.noise.dim(0), size = op.noise.numel() / images;
  const double* place = op.places.data<double>();
  for (int64_t i = 0; i < images; ++i)
    op.philox.normal(op.noise.f32() + i * size, size, uint32_t(place[0]),
                     uint32_t(int64_t(place[1]) + i), op.draw);
}

void HostKernels::run(const Diffuse& op) {
  int64_t images = op.coefficients.dim(0), size = op.x.numel() / images;
  for (int64_t i = 0; i < images * size; ++i) {
    const float* c = op.coefficients.f32() + i / size * 4;
    float from_x = op.x.f32()[i], from_noise = op.noise.f32()[i];
    op.noisy.f32()[i] = c[0] * from_x + c[1] * from_noise;
    // a coefficient of 0 keeps what is not finite out of the target
    op.target.f32()[i] = c[2] == 0   ? c[3] * from_noise
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

void HostKernels::run(const PairLossWeights&) {
  throw Error(Code::Internal,
              "[kernels] pair_loss: expected the loss to be computed by the host "
              "(train/objective.h), got a call of a host backend's kernel");
}

void HostKernels::run(const SamplerInput& op) {
  const float *row = sampler_row(op.sampler), *x = op.sampler.memory.f32();
  int64_t n = op.sampler.memory.dim(1);
  for (int64_t i = 0; i < op.input.numel(); ++i) op.input.f32()[i] = row[kInputScale] * x[i % n];
  for (int64_t i = 0; i < op.timesteps.numel(); ++i) op.timesteps.f32()[i] = row[kTimestep];
}

void HostKernels::run(const SamplerStep& op) {
  const float* row = sampler_row(op.sampler);
  int64_t n = op.sampler.memory.dim(1);
  auto times = [&](SamplerColumn column, float value) {
    return row[column] == 0 ? 0.0f : row[column] * value;
  };
  for (int64_t i = 0; i < n; ++i) {
    auto memory = [&](SamplerRow r) -> float& { return op.sampler.memory.f32()[r * n + i]; };
    float x = memory(kLatents), m = op.output.f32()[i];
    if (op.output.numel() > n) m += row[kGuidance] * (op.output.f32()[n + i] - m);
    float v = std::clamp(times(kValueX, x) + times(kValueM, m), -row[kLimit], row[kLimit]);
    memory(kLatents) = times(kNextX, x) + times(kNextStart, memory(kStart)) + times(kNextM, m) +
                       times(kNextValue, v) + times(kNextH1, memory(kHistory1)) +
                       times(kNextH2, memory(kHistory2)) + times(kNextH3, memory(kHistory3)) +
                       times(kNextSum, memory(kSum)) +
                       (op.noise ? times(kNextNoise, op.noise.f32()[i]) : 0.0f);
    memory(kSum) = times(kSumKeep, memory(kSum)) + times(kSumM, m);
    if (row[kStore] != 0) memory(kStart) = x;
    if (row[kPush] == 0) continue;
    memory(kHistory3) = memory(kHistory2);
    memory(kHistory2) = memory(kHistory1);
    memory(kHistory1) = v;
  }
  *op.sampler.at.data<double>() += 1;
}

void HostKernels::run(const ClipGradient& op) {
  double* s = op.scalars.data<double>();
  s[kNorm] = std::sqrt(sum_of_squares(op.gradient));
  s[kFactor] = op.max_norm > 0 ? std::min(1.0, op.max_norm / (s[kNorm] + 1e-6)) : 1.0;
  s[kFinite] = std::isfinite(s[kNorm]) ? 1 : 0;
}

void HostKernels::run(const OptimizerStep& op) {
  const double* s = op.scalars.data<double>();
  if (s[kFinite] == 0) return;
  const OptimizerArenas& a = op.arenas;
  adamw(a, {.args = op.args,
            .learning_rate = s[kLearningRate],
            .number = int64_t(s[kStep]),
            .gradient_scale = s[kFactor]});
  if (a.ema) lerp(a.ema, a.w, s[kEmaWeight]);
  if (a.bf16) run(Cast{.y = a.bf16, .x = a.w});
}

}  // namespace spindle
