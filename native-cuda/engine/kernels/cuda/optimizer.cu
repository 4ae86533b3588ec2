// Clipping and AdamW over flat arenas. The step's scalars (StepScalar) are in device memory:
// nothing here waits for the host.
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/map.h"
#include "kernels/cuda/square_sums.h"

namespace spindle::cuda {

namespace {

// One block owns the whole sum. A thread adds every 256th chunk, then the block adds its threads:
// one order for a number of chunks, whatever ran before.
__global__ void add_all_kernel(double* y, const double* partial, int64_t chunks) {
  __shared__ double warps[kSumBlock / kWarp];
  double sum = 0;
  for (int64_t i = threadIdx.x; i < chunks; i += kSumBlock) sum += partial[i];
  sum = block_sum(sum, warps);
  if (threadIdx.x == 0) *y = sum;
}

// One thread: three numbers from one.
__global__ void clip_kernel(double* scalars, double max_norm) {
  double norm = sqrt(scalars[kNorm]);  // holds the sum of squares
  scalars[kNorm] = norm;
  double factor = max_norm / (norm + 1e-6);
  scalars[kFactor] = max_norm > 0 && factor < 1 ? factor : 1.0;
  scalars[kFinite] = isfinite(norm) ? 1.0 : 0.0;
}

struct AdamWConstants {
  float beta1, beta2, one_minus_beta1, one_minus_beta2, epsilon, weight_decay;
};

// A thread has four neighbours of the arenas (which are padded to 16).
__global__ void optimizer_kernel(float* w,
                                 float* m,
                                 float* v,
                                 const float* grad,
                                 float* ema,
                                 bf16* shadow,
                                 int64_t n,
                                 const double* scalars,
                                 AdamWConstants c) {
  if (scalars[kFinite] == 0) return;
  float rate = float(scalars[kLearningRate]), factor = float(scalars[kFactor]),
        ema_weight = float(scalars[kEmaWeight]);
  float correction1 = float(1 / scalars[kCorrection1]),
        correction2 = float(1 / scalars[kCorrection2]);
  int64_t first = (int64_t(blockIdx.x) * kMapBlock + threadIdx.x) * 4;
  for (int64_t i = first; i < first + 4 && i < n; ++i) {
    float g = grad[i] * factor;
    float mi = c.beta1 * m[i] + c.one_minus_beta1 * g,
          vi = c.beta2 * v[i] + c.one_minus_beta2 * g * g;
    float step = mi * correction1 / (sqrtf(vi * correction2) + c.epsilon), wi = w[i];
    wi -= rate * (c.weight_decay * wi + step);
    m[i] = mi;
    v[i] = vi;
    w[i] = wi;
    if (ema) ema[i] += ema_weight * (wi - ema[i]);
    if (shadow) shadow[i] = narrow<bf16>(wi);
  }
}

}  // namespace

void CudaKernels::sum_squares_into(double* y, const Tensor& x) {
  int64_t chunks = (x.numel() + kSumChunk - 1) / kSumChunk;
  Tensor partial(scratch_, {chunks}, DType::F64);
  launch("squares", squares_kernel<float, float>, {unsigned(chunks)}, kSumBlock, 0, stream_,
         partial.data<double>(), x.f32(), static_cast<const float*>(nullptr), x.numel());
  launch("add_all", add_all_kernel, {1}, kSumBlock, 0, stream_, y, partial.data<double>(), chunks);
}

void CudaKernels::run(const ClipGradient& op) {
  Call call(device_, op.kName, op.gradient);
  sum_squares_into(op.scalars.data<double>() + kNorm, op.gradient);
  launch("clip", clip_kernel, {1}, 1, 0, stream_, op.scalars.data<double>(), op.max_norm);
}

void CudaKernels::run(const OptimizerStep& op) {
  const OptimizerArenas& a = op.arenas;
  Call call(device_, op.kName, a.w);
  AdamWConstants c{float(op.args.beta1),     float(op.args.beta2),   float(1 - op.args.beta1),
                   float(1 - op.args.beta2), float(op.args.epsilon), float(op.args.weight_decay)};
  launch("optimizer", optimizer_kernel, {blocks_for(a.w.numel(), kMapBlock * 4)}, kMapBlock, 0,
         stream_, a.w.f32(), a.m.f32(), a.v.f32(), a.grad.f32(), a.ema ? a.ema.f32() : nullptr,
         a.bf16 ? a.bf16.data<bf16>() : nullptr, a.w.numel(), op.scalars.data<double>(), c);
}

}  // namespace spindle::cuda
