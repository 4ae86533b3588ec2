#include "kernels/cuda/library/check.h"
#include "kernels/cuda/library/finish.h"

namespace spindle::cuda {

namespace {

constexpr int kBlock = 256;

__device__ float widen(float x) { return x; }
__device__ float widen(bf16 x) { return __uint_as_float(uint32_t(x.bits) << 16); }
__device__ void store(float& y, float x) { y = x; }
__device__ void store(bf16& y, float x) {
  uint32_t u = __float_as_uint(x);
  y.bits = (u & 0x7fffffffu) > 0x7f800000u ? uint16_t((u >> 16) | 0x40) : uint16_t((u + 0x7fffu + ((u >> 16) & 1)) >> 16);
}

template <class Y, class S>
__global__ void finish_kernel(Y* y, const S* sum, const Y* bias, const Y* addend, int64_t count, int64_t channels) {
  int64_t i = int64_t(blockIdx.x) * kBlock + threadIdx.x;
  if (i >= count) return;
  float value = widen(sum[i]);
  if (bias) value += widen(bias[i % channels]);
  if (addend) value += widen(addend[i]);
  store(y[i], value);
}

template <class Y, class S>
void run(Tensor& y, const Tensor& sum, const Tensor& bias, const Tensor& addend, cudaStream_t stream) {
  int64_t count = y.numel();
  finish_kernel<<<unsigned((count + kBlock - 1) / kBlock), kBlock, 0, stream>>>(y.data<Y>(), static_cast<const S*>(sum.raw()), bias ? static_cast<const Y*>(bias.raw()) : nullptr,
                                                                                addend ? static_cast<const Y*>(addend.raw()) : nullptr, count, y.dim(-1));
  SPINDLE_CUDA_CALL(cudaGetLastError(), cat(y.shape()));
}

}  // namespace

void finish(Tensor& y, const Tensor& sum, const Tensor& bias, const Tensor& addend, cudaStream_t stream) {
  ensure(y.numel() == sum.numel() && y.numel() > 0, "[cuda] finish: ", y.shape(), " from ", sum.shape());
  if (y.dtype() == DType::BF16) {
    ensure(sum.dtype() == DType::BF16, "[cuda] finish: bfloat16 from ", dtype_name(sum.dtype()));
    run<bf16, bf16>(y, sum, bias, addend, stream);
  } else if (sum.dtype() == DType::BF16) {
    run<float, bf16>(y, sum, bias, addend, stream);
  } else {
    run<float, float>(y, sum, bias, addend, stream);
  }
}

}  // namespace spindle::cuda
