// The loss of a denoiser: mean squared errors per image, and their gradient.
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/map.h"
#include "kernels/cuda/square_sums.h"

namespace spindle::cuda {

namespace {

// A thread owns an image and adds its chunks in their order: few values, and one order.
__global__ void add_doubles_kernel(double* y,
                                   const double* partial,
                                   int64_t images,
                                   int64_t chunks,
                                   double divisor) {
  int64_t i = int64_t(blockIdx.x) * kMapBlock + threadIdx.x;
  if (i >= images) return;
  double sum = 0;
  for (int64_t chunk = 0; chunk < chunks; ++chunk) sum += partial[i * chunks + chunk];
  y[i] = sum / divisor;
}

// A thread owns one element. weights (images) is d loss / d error; size = elements per image.
template <class T, class U>
__global__ void mse_backward_kernel(T* d,
                                    const T* prediction,
                                    const U* target,
                                    const float* weights,
                                    int64_t n,
                                    int64_t size) {
  int64_t i = int64_t(blockIdx.x) * kMapBlock + threadIdx.x;
  if (i < n)
    d[i] =
        narrow<T>(weights[i / size] * 2 / float(size) * (widen(prediction[i]) - widen(target[i])));
}

}  // namespace

void CudaKernels::run(const MsePerImage& op) {
  Call call(device_, op.kName, op.prediction);
  int64_t images = op.errors.numel(), n = op.prediction.numel() / images,
          chunks = (n + kSumChunk - 1) / kSumChunk;
  ensure(op.errors.dtype() == DType::F64, "[cuda] mse_per_image: expected float64 errors, got ",
         dtype_name(op.errors.dtype()));
  Tensor partial(scratch_, {images * chunks}, DType::F64);
  with_type(op.prediction, [&]<class A>(A*) {
    with_type(op.target, [&]<class B>(B*) {
      launch("squares", squares_kernel<A, B>, {unsigned(chunks), unsigned(images)}, kSumBlock, 0,
             stream_, partial.data<double>(), op.prediction.data<A>(), op.target.data<B>(), n);
    });
  });
  launch("add_doubles", add_doubles_kernel, {blocks_for(images, kMapBlock)}, kMapBlock, 0, stream_,
         op.errors.data<double>(), partial.data<double>(), images, chunks, double(n));
}

void CudaKernels::run(const MseBackward& op) {
  Call call(device_, op.kName, op.prediction);
  int64_t n = op.prediction.numel();
  with_type(op.dprediction, [&]<class T>(T*) {
    with_type(op.target, [&]<class U>(U*) {
      launch("mse_backward", mse_backward_kernel<T, U>, {blocks_for(n, kMapBlock)}, kMapBlock, 0,
             stream_, op.dprediction.data<T>(), op.prediction.data<T>(), op.target.data<U>(),
             op.weights.f32(), n, n / op.weights.numel());
    });
  });
}

}  // namespace spindle::cuda
