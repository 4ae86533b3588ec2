#include "kernels/cuda/library/check.h"
#include "kernels/cuda/library/finish.h"

namespace spindle::cuda {

namespace {

constexpr int kBlock = 256;
unsigned blocks(int64_t count) { return unsigned((count + kBlock - 1) / kBlock); }

__device__ float widen(float x) { return x; }
__device__ float widen(bf16 x) { return __uint_as_float(uint32_t(x.bits) << 16); }
__device__ void store(float& y, float x) { y = x; }
__device__ void store(bf16& y, float x) {
  uint32_t u = __float_as_uint(x);
  y.bits = (u & 0x7fffffffu) > 0x7f800000u ? uint16_t((u >> 16) | 0x40)
                                           : uint16_t((u + 0x7fffu + ((u >> 16) & 1)) >> 16);
}

// A thread owns one element of y: the library's sum, plus the bias of its channel, plus what is
// added.
template <class Y, class S>
__global__ void finish_kernel(Y* y,
                              const S* sum,
                              const Y* bias,
                              const Y* addend,
                              int64_t count,
                              int64_t channels) {
  int64_t i = int64_t(blockIdx.x) * kBlock + threadIdx.x;
  if (i >= count) return;
  float value = widen(sum[i]);
  if (bias) value += widen(bias[i % channels]);
  if (addend) value += widen(addend[i]);
  store(y[i], value);
}

template <class Y, class S>
void run(const Tensor& y,
         const Tensor& sum,
         const Tensor& bias,
         const Tensor& addend,
         cudaStream_t stream) {
  int64_t count = y.numel();
  finish_kernel<<<blocks(count), kBlock, 0, stream>>>(
      y.data<Y>(), static_cast<const S*>(sum.raw()),
      bias ? static_cast<const Y*>(bias.raw()) : nullptr,
      addend ? static_cast<const Y*>(addend.raw()) : nullptr, count, y.dim(-1));
  SPINDLE_CUDA_CALL(cudaGetLastError(), cat(y.shape()));
}

// Images (B,inner_rows,inner_columns,C) that lie at (before, before) in larger ones
// (B,rows,columns,C).
struct Window {
  int64_t rows, columns, inner_rows, inner_columns, channels, before;

  // From an element of the outer images to the inner ones; -1: none of theirs.
  __device__ int64_t inner(int64_t i) const {
    int64_t c = i % channels, x = i / channels % columns - before,
            y = i / channels / columns % rows - before, b = i / channels / columns / rows;
    return x < 0 || y < 0 || x >= inner_columns || y >= inner_rows
               ? -1
               : ((b * inner_rows + y) * inner_columns + x) * channels + c;
  }
  // And back.
  __device__ int64_t outer(int64_t i) const {
    int64_t c = i % channels, x = i / channels % inner_columns + before,
            y = i / channels / inner_columns % inner_rows + before,
            b = i / channels / inner_columns / inner_rows;
    return ((b * rows + y) * columns + x) * channels + c;
  }
};

// A thread owns one element of the larger images and looks where it comes from; the border is zero.
template <class T>
__global__ void pad_kernel(T* y, const T* x, Window window, int64_t count) {
  int64_t i = int64_t(blockIdx.x) * kBlock + threadIdx.x;
  if (i >= count) return;
  int64_t from = window.inner(i);
  y[i] = from < 0 ? T{} : x[from];
}

// A thread owns one element of the inner images: the gradient of pad_kernel.
template <class T>
__global__ void crop_kernel(T* x, const T* y, Window window, int64_t count, bool accumulate) {
  int64_t i = int64_t(blockIdx.x) * kBlock + threadIdx.x;
  if (i >= count) return;
  float value = widen(y[window.outer(i)]);
  if (accumulate) value += widen(x[i]);
  store(x[i], value);
}

Window window_of(const Tensor& outer, const Tensor& inner, int64_t before) {
  ensure(outer.dtype() == inner.dtype() && outer.dim(0) == inner.dim(0) &&
             outer.dim(3) == inner.dim(3) && outer.dim(1) >= inner.dim(1) + before &&
             outer.dim(2) >= inner.dim(2) + before,
         "[cuda] window of ", inner.shape(), " in ", outer.shape());
  return {outer.dim(1), outer.dim(2), inner.dim(1), inner.dim(2), inner.dim(3), before};
}

}  // namespace

void pad_images(const Tensor& y, const Tensor& x, int64_t before, cudaStream_t stream) {
  Window window = window_of(y, x, before);
  if (y.dtype() == DType::BF16)
    pad_kernel<<<blocks(y.numel()), kBlock, 0, stream>>>(
        y.data<bf16>(), static_cast<const bf16*>(x.raw()), window, y.numel());
  else
    pad_kernel<<<blocks(y.numel()), kBlock, 0, stream>>>(
        y.f32(), static_cast<const float*>(x.raw()), window, y.numel());
  SPINDLE_CUDA_CALL(cudaGetLastError(), cat(y.shape()));
}

void crop_images(const Tensor& x,
                 const Tensor& y,
                 int64_t before,
                 bool accumulate,
                 cudaStream_t stream) {
  Window window = window_of(y, x, before);
  if (x.dtype() == DType::BF16)
    crop_kernel<<<blocks(x.numel()), kBlock, 0, stream>>>(
        x.data<bf16>(), static_cast<const bf16*>(y.raw()), window, x.numel(), accumulate);
  else
    crop_kernel<<<blocks(x.numel()), kBlock, 0, stream>>>(
        x.f32(), static_cast<const float*>(y.raw()), window, x.numel(), accumulate);
  SPINDLE_CUDA_CALL(cudaGetLastError(), cat(x.shape()));
}

void finish(const Tensor& y,
            const Tensor& sum,
            const Tensor& bias,
            const Tensor& addend,
            cudaStream_t stream) {
  ensure(y.numel() == sum.numel() && y.numel() > 0, "[cuda] finish: ", y.shape(), " from ",
         sum.shape());
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
