// A sampler's step on the device: its scalars are a row of a table there, and the next row's number
// too, so that every step is the same work and can be replayed. Formulas: SamplerColumn in
// kernels.h.
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/map.h"

namespace spindle::cuda {

namespace {

__device__ __forceinline__ const float* row_of(const float* table, const double* at) {
  return table + int64_t(*at) * kSamplerColumns;
}

// A thread owns one element of the model's input, and with the first ones a timestep. Copies of the
// latents (for guidance) lie one after the other.
__global__ void sampler_input_kernel(float* input,
                                     float* timesteps,
                                     const float* x,
                                     const float* table,
                                     const double* at,
                                     int64_t count,
                                     int64_t n,
                                     int64_t images) {
  const float* row = row_of(table, at);
  int64_t i = int64_t(blockIdx.x) * kMapBlock + threadIdx.x;
  if (i < count) input[i] = row[kInputScale] * x[i % n];
  if (i < images) timesteps[i] = row[kTimestep];
}

__device__ __forceinline__ float times(const float* row, SamplerColumn column, float value) {
  return row[column] == 0 ? 0.0f : row[column] * value;
}

// A thread owns one element of the latents and its history: nothing of a step depends on a
// neighbour, so a whole scheduler step is one pass. The coefficients are the same for all and come
// from the table's row.
__global__ void sampler_step_kernel(float* memory,
                                    const float* table,
                                    const double* at,
                                    const float* output,
                                    const float* noise,
                                    int64_t n,
                                    bool guided) {
  int64_t i = int64_t(blockIdx.x) * kMapBlock + threadIdx.x;
  if (i >= n) return;
  const float* row = row_of(table, at);
  float *latent = memory + kLatents * n + i, *start = memory + kStart * n + i,
        *sum = memory + kSum * n + i;
  float *h1 = memory + kHistory1 * n + i, *h2 = memory + kHistory2 * n + i,
        *h3 = memory + kHistory3 * n + i;
  float x = *latent, m = output[i];
  if (guided) m += row[kGuidance] * (output[n + i] - m);
  float v = times(row, kValueX, x) + times(row, kValueM, m);
  if (v < -row[kLimit]) v = -row[kLimit];  // what is no number stays so
  if (v > row[kLimit]) v = row[kLimit];
  *latent = times(row, kNextX, x) + times(row, kNextStart, *start) + times(row, kNextM, m) +
            times(row, kNextValue, v) + times(row, kNextH1, *h1) + times(row, kNextH2, *h2) +
            times(row, kNextH3, *h3) + times(row, kNextSum, *sum) +
            (noise ? times(row, kNextNoise, noise[i]) : 0.0f);
  *sum = times(row, kSumKeep, *sum) + times(row, kSumM, m);
  if (row[kStore] != 0) *start = x;
  if (row[kPush] == 0) return;
  *h3 = *h2;
  *h2 = *h1;
  *h1 = v;
}

// Behind the step: all of its threads read the number.
__global__ void next_row_kernel(double* at) { *at += 1; }

}  // namespace

void CudaKernels::run(const SamplerInput& op) {
  Call call(device_, op.kName, op.input);
  int64_t count = std::max(op.input.numel(), op.timesteps.numel());
  launch("sampler_input", sampler_input_kernel, {blocks_for(count, kMapBlock)}, kMapBlock, 0,
         stream_, op.input.f32(), op.timesteps.f32(), op.sampler.memory.f32(),
         op.sampler.table.f32(), op.sampler.at.data<double>(), op.input.numel(),
         op.sampler.memory.dim(1), op.timesteps.numel());
}

void CudaKernels::run(const SamplerStep& op) {
  Call call(device_, op.kName, op.output);
  int64_t n = op.sampler.memory.dim(1);
  launch("sampler_step", sampler_step_kernel, {blocks_for(n, kMapBlock)}, kMapBlock, 0, stream_,
         op.sampler.memory.f32(), op.sampler.table.f32(), op.sampler.at.data<double>(),
         op.output.f32(), op.noise ? op.noise.f32() : nullptr, n, op.output.numel() > n);
  launch("next_row", next_row_kernel, {1}, 1, 0, stream_, op.sampler.at.data<double>());
}

}  // namespace spindle::cuda
