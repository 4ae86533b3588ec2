// What a training step computes beside the model: noise, noisy images, the loss of pairs. Scalars
// of a step stay in device memory, so that it never waits for the host.
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/map.h"

namespace spindle::cuda {

namespace {

struct PhiloxWords {
  uint32_t of[4];
};

// Philox4x32-10, as core/rng.cc.
__device__ __forceinline__ PhiloxWords philox_rounds(PhiloxWords c, uint32_t key0, uint32_t key1) {
  for (int round = 0; round < 10; ++round) {
    uint32_t low0 = 0xd2511f53u * c.of[0], high0 = __umulhi(0xd2511f53u, c.of[0]);
    uint32_t low1 = 0xcd9e8d57u * c.of[2], high1 = __umulhi(0xcd9e8d57u, c.of[2]);
    c = {{high1 ^ c.of[1] ^ key0, low1, high0 ^ c.of[3] ^ key1, low0}};
    key0 += 0x9e3779b9u;
    key1 += 0xbb67ae85u;
  }
  return c;
}

// A thread makes the four values of a block; blockIdx.y is the image.
__global__ void normal_kernel(float* noise,
                              int64_t size,
                              uint32_t key0,
                              uint32_t key1,
                              uint32_t draw,
                              const double* places) {
  constexpr double kTwoPi = 6.283185307179586476925286766559;
  int64_t block = int64_t(blockIdx.x) * kMapBlock + threadIdx.x;
  if (block * 4 >= size) return;
  uint32_t step = uint32_t(int64_t(places[0])), sample = uint32_t(int64_t(places[1]) + blockIdx.y);
  PhiloxWords words = philox_rounds({{uint32_t(block), sample, step, draw}}, key0, key1);
  float* out = noise + blockIdx.y * size + block * 4;
  for (int pair = 0; pair < 2; ++pair) {
    double u = (double(words.of[2 * pair]) + 1) * 0x1p-32,
           v = double(words.of[2 * pair + 1]) * 0x1p-32;
    double radius = sqrt(-2 * log(u));
    if (block * 4 + 2 * pair < size) out[2 * pair] = float(radius * cos(kTwoPi * v));
    if (block * 4 + 2 * pair + 1 < size) out[2 * pair + 1] = float(radius * sin(kTwoPi * v));
  }
}

// A thread owns one element; its image's four coefficients make the noisy latents and the target.
__global__ void diffuse_kernel(float* noisy,
                               float* target,
                               const float* x,
                               const float* noise,
                               const float* coefficients,
                               int64_t n,
                               int64_t size) {
  int64_t i = int64_t(blockIdx.x) * kMapBlock + threadIdx.x;
  if (i >= n) return;
  const float* c = coefficients + i / size * 4;
  noisy[i] = c[0] * x[i] + c[1] * noise[i];
  // a coefficient of 0 keeps what is not finite out of the target
  target[i] = (c[2] == 0 ? 0.0f : c[2] * x[i]) + (c[3] == 0 ? 0.0f : c[3] * noise[i]);
}

// One block owns the loss: pairs are few, and one block means one order. A thread walks every 256th
// pair. Formulas: train/objective.cc, of which this has the ones that PairLoss names.
__global__ void pair_loss_kernel(float* weights,
                                 double* loss,
                                 const double* errors,
                                 const double* opponent,
                                 int64_t pairs,
                                 const double* settings,
                                 const double* factors,
                                 PairLoss kind) {
  __shared__ double warps[kMapBlock / kWarp];
  double sum = 0, beta = settings[0], scale = settings[1];
  for (int64_t i = threadIdx.x; i < pairs; i += kMapBlock) {
    if (kind == PairLoss::Plain) {
      sum += scale * errors[i];
      weights[i] = float(scale);
      continue;
    }
    double gain = (errors[i] - opponent[i]) - (errors[pairs + i] - opponent[pairs + i]),
           factor = factors ? factors[i] : 1, logit = -0.5 * beta * factor * gain, term, slope;
    if (kind == PairLoss::Logistic) {
      double tail = exp(-fabs(logit));
      term = (logit < 0 ? -logit : 0.0) + log1p(tail);
      slope = logit >= 0 ? -tail / (1 + tail) : -1 / (1 + tail);
    } else if (kind == PairLoss::Ipo) {
      term = (logit - 0.5) * (logit - 0.5);
      slope = 2 * (logit - 0.5);
    } else {
      term = logit < 1 ? 1 - logit : 0;
      slope = logit < 1 ? -1 : 0;
    }
    if (isnan(logit)) term = logit;  // comparisons would hide it
    sum += scale * term;
    weights[i] = float(scale * slope * -0.5 * beta * factor);
    weights[pairs + i] = float(scale * slope * 0.5 * beta * factor);
  }
  sum = block_sum(sum, warps);
  if (threadIdx.x == 0) *loss = sum;
}

}  // namespace

void CudaKernels::run(const NormalNoise& op) {
  Call call(device_, op.kName, op.noise);
  int64_t images = op.noise.dim(0), size = op.noise.numel() / images;
  std::array<uint32_t, 2> key = op.philox.key();
  launch("normal", normal_kernel, {blocks_for((size + 3) / 4, kMapBlock), unsigned(images)},
         kMapBlock, 0, stream_, op.noise.f32(), size, key[0], key[1], uint32_t(op.draw),
         op.places.data<double>());
}

void CudaKernels::run(const Diffuse& op) {
  Call call(device_, op.kName, op.x);
  int64_t n = op.x.numel();
  launch("diffuse", diffuse_kernel, {blocks_for(n, kMapBlock)}, kMapBlock, 0, stream_,
         op.noisy.f32(), op.target.f32(), op.x.f32(), op.noise.f32(), op.coefficients.f32(), n,
         n / op.coefficients.dim(0));
}

void CudaKernels::run(const PairLossWeights& op) {
  Call call(device_, op.kName, op.errors);
  bool plain = op.kind == PairLoss::Plain;
  launch("pair_loss", pair_loss_kernel, {1}, kMapBlock, 0, stream_, op.weights.f32(),
         op.loss.data<double>(), op.errors.data<double>(),
         plain ? nullptr : op.opponent_errors.data<double>(), op.errors.numel() / (plain ? 1 : 2),
         op.settings.data<double>(), op.factors ? op.factors.data<double>() : nullptr, op.kind);
}

}  // namespace spindle::cuda
