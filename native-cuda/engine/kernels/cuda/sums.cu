// Sums: gradients of biases and broadcast rows, errors per image, norms of arenas. In an order
// fixed by shapes (column_sums.h).
#include "kernels/cuda/column_sums.h"
#include "kernels/cuda/cuda_kernels.h"

namespace spindle::cuda {

namespace {

constexpr unsigned kSumBlock = 256;
constexpr int64_t kSumChunk = 16384;  // values that one block sums in double

template <class T>
__global__ void add_chunks_kernel(T* y,
                                  const Sums<1>* partial,
                                  int64_t n,
                                  int64_t chunks,
                                  int64_t columns,
                                  bool accumulate) {
  int64_t i = int64_t(blockIdx.x) * kMapBlock + threadIdx.x;
  if (i >= n) return;
  const Sums<1>* from = partial + i / columns * chunks * columns + i % columns;
  float sum = 0;
  for (int64_t chunk = 0; chunk < chunks; ++chunk) sum += from[chunk * columns].of[0];
  y[i] = narrow<T>(accumulate ? widen(y[i]) + sum : sum);
}

// partial[image][chunk] = sum of (a - b)^2 over a chunk of the image's values; b null: of a^2
template <class A, class B>
__global__ void squares_kernel(double* partial, const A* a, const B* b, int64_t n) {
  __shared__ double warps[kSumBlock / kWarp];
  int64_t image = blockIdx.y, first = int64_t(blockIdx.x) * kSumChunk,
          last = first + kSumChunk < n ? first + kSumChunk : n;
  double sum = 0;
  for (int64_t i = first + threadIdx.x; i < last; i += kSumBlock) {
    double d = double(widen(a[image * n + i])) - (b ? double(widen(b[image * n + i])) : 0.0);
    sum += d * d;
  }
  sum = block_sum(sum, warps);
  if (threadIdx.x == 0) partial[image * gridDim.x + blockIdx.x] = sum;
}

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

// One block: lanes add every 256th chunk, then each other.
__global__ void add_all_kernel(double* y, const double* partial, int64_t chunks) {
  __shared__ double warps[kSumBlock / kWarp];
  double sum = 0;
  for (int64_t i = threadIdx.x; i < chunks; i += kSumBlock) sum += partial[i];
  sum = block_sum(sum, warps);
  if (threadIdx.x == 0) *y = sum;
}

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

void CudaKernels::sum_columns(const GradSlot& y, const Tensor& x, int64_t segments) {
  int64_t n = y.tensor.numel(), columns = n / segments, rows = x.numel() / n;
  Chunks chunks(rows);
  Tensor partial(scratch_, {segments * chunks.count * columns}, DType::F32);
  with_type(x, [&]<class T>(T*) {
    column_sums("column_sums", stream_, PlainTerms<T>{x.data<T>(), rows, columns}, segments, rows,
                columns, chunks, partial.data<Sums<1>>());
  });
  with_type(y.tensor, [&]<class T>(T*) {
    launch("add_chunks", add_chunks_kernel<T>, {blocks_for(n, kMapBlock)}, kMapBlock, 0, stream_,
           y.tensor.data<T>(), partial.data<Sums<1>>(), n, chunks.count, columns, y.accumulate);
  });
}

void CudaKernels::run(const SumToRows& op) {
  if (!op.drows) return;
  Call call(device_, op.kName, op.dy);
  sum_columns(op.drows, op.dy, 1);
}

void CudaKernels::run(const SumPerImage& op) {
  if (!op.dt) return;
  Call call(device_, op.kName, op.dy);
  sum_columns(op.dt, op.dy, op.dt.tensor.numel() / op.dt.tensor.dim(-1));
}

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

void CudaKernels::sum_squares_into(double* y, const Tensor& x) {
  int64_t chunks = (x.numel() + kSumChunk - 1) / kSumChunk;
  Tensor partial(scratch_, {chunks}, DType::F64);
  launch("squares", squares_kernel<float, float>, {unsigned(chunks)}, kSumBlock, 0, stream_,
         partial.data<double>(), x.f32(), static_cast<const float*>(nullptr), x.numel());
  launch("add_all", add_all_kernel, {1}, kSumBlock, 0, stream_, y, partial.data<double>(), chunks);
}

}  // namespace spindle::cuda
