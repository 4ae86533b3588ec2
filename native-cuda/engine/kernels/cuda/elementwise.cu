// What works element by element, and the sums that go back from it.
#include "kernels/cuda/activations.h"
#include "kernels/cuda/column_sums.h"
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/map.h"

namespace spindle::cuda {

namespace {

struct Activate {
  Activation kind;
  __device__ float operator()(float x) const { return activate(x, kind); }
};
struct ActivateBackward {
  Activation kind;
  __device__ float operator()(float dy, float x) const { return dy * activate_derivative(x, kind); }
};
struct Sum {
  __device__ float operator()(float a, float b) const { return a + b; }
};
struct Multiply {
  float factor;
  __device__ float operator()(float x) const { return x * factor; }
};
struct Same {
  __device__ float operator()(float x) const { return x; }
};

// x (rows, 2 C) = [value, gate], y (rows, C)
// A thread owns one element of y and reads its value and its gate, which lie C columns apart.
template <class T>
__global__ void geglu_kernel(T* y, const T* x, int64_t rows, int64_t c) {
  int64_t i = int64_t(blockIdx.x) * kMapBlock + threadIdx.x;
  if (i >= rows * c) return;
  int64_t row = i / c, column = i - row * c;
  const T* from = x + row * 2 * c + column;
  y[i] = narrow<T>(widen(from[0]) * activate(widen(from[c]), Activation::Gelu));
}

// A thread owns one element of dy and the two of dx that it goes back to: value and gate of the
// same column. dx (rows, 2 C); nobody else writes them.
template <class T>
__global__ void geglu_backward_kernel(T* dx,
                                      const T* dy,
                                      const T* x,
                                      int64_t rows,
                                      int64_t c,
                                      bool accumulate) {
  int64_t i = int64_t(blockIdx.x) * kMapBlock + threadIdx.x;
  if (i >= rows * c) return;
  int64_t row = i / c, first = row * 2 * c + (i - row * c);
  float value = widen(x[first]), gate = widen(x[first + c]), d = widen(dy[i]);
  float to_value = d * activate(gate, Activation::Gelu),
        to_gate = d * value * activate_derivative(gate, Activation::Gelu);
  if (accumulate) to_value += widen(dx[first]), to_gate += widen(dx[first + c]);
  dx[first] = narrow<T>(to_value);
  dx[first + c] = narrow<T>(to_gate);
}

// A thread owns one element; the rows' values repeat every `size` elements.
template <class T>
__global__ void add_rows_kernel(T* y, const T* x, const T* rows, int64_t n, int64_t size) {
  int64_t i = int64_t(blockIdx.x) * kMapBlock + threadIdx.x;
  if (i < n) y[i] = narrow<T>(widen(x[i]) + widen(rows[i % size]));
}

// y = activation(y + bias + per_image[image]) + residual over (images * rows, c)
// A thread owns one element: what a library's product left in y becomes the result in place.
template <class T, class B>
__global__ void epilogue_kernel(T* y,
                                const B* bias,
                                const T* per_image,
                                const T* residual,
                                int64_t n,
                                int64_t c,
                                int64_t image_size,
                                Activation kind) {
  int64_t i = int64_t(blockIdx.x) * kMapBlock + threadIdx.x;
  if (i >= n) return;
  int64_t column = i % c;
  float value = widen(y[i]);
  if (bias) value += widen(bias[column]);
  if (per_image) value += widen(per_image[i / image_size * c + column]);
  value = activate(value, kind);
  if (residual) value += widen(residual[i]);
  y[i] = narrow<T>(value);
}

// A thread owns one sum and adds its chunks in their order (column_sums.h made them).
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

}  // namespace

void CudaKernels::run(const ActivationForward& op) {
  Call call(device_, op.kName, op.x);
  with_type(op.x, [&]<class T>(T*) {
    map("activation", stream_, Activate{op.kind}, op.y.numel(), op.y.data<T>(),
        static_cast<const T*>(op.x.data<T>()));
  });
}

void CudaKernels::run(const ActivationBackward& op) {
  if (!op.dx) return;
  Call call(device_, op.kName, op.x);
  with_type(op.x, [&]<class T>(T*) {
    map_into("activation_backward", stream_, ActivateBackward{op.kind}, op.dx.accumulate,
             op.x.numel(), op.dx.tensor.data<T>(), static_cast<const T*>(op.dy.data<T>()),
             static_cast<const T*>(op.x.data<T>()));
  });
}

void CudaKernels::run(const GegluForward& op) {
  Call call(device_, op.kName, op.x);
  int64_t c = op.y.dim(-1);
  with_type(op.x, [&]<class T>(T*) {
    launch("geglu", geglu_kernel<T>, {blocks_for(op.y.numel(), kMapBlock)}, kMapBlock, 0, stream_,
           op.y.data<T>(), op.x.data<T>(), op.y.numel() / c, c);
  });
}

void CudaKernels::run(const GegluBackward& op) {
  if (!op.dx) return;
  Call call(device_, op.kName, op.x);
  int64_t c = op.dy.dim(-1);
  with_type(op.x, [&]<class T>(T*) {
    launch("geglu_backward", geglu_backward_kernel<T>, {blocks_for(op.dy.numel(), kMapBlock)},
           kMapBlock, 0, stream_, op.dx.tensor.data<T>(), op.dy.data<T>(), op.x.data<T>(),
           op.dy.numel() / c, c, op.dx.accumulate);
  });
}

void CudaKernels::run(const Add& op) {
  Call call(device_, op.kName, op.a);
  with_type(op.y, [&]<class T>(T*) {
    map("add", stream_, Sum{}, op.y.numel(), op.y.data<T>(), static_cast<const T*>(op.a.data<T>()),
        static_cast<const T*>(op.b.data<T>()));
  });
}

void CudaKernels::run(const AddRows& op) {
  Call call(device_, op.kName, op.x, op.rows);
  with_type(op.y, [&]<class T>(T*) {
    launch("add_rows", add_rows_kernel<T>, {blocks_for(op.y.numel(), kMapBlock)}, kMapBlock, 0,
           stream_, op.y.data<T>(), op.x.data<T>(), op.rows.data<T>(), op.y.numel(),
           op.rows.numel());
  });
}

void CudaKernels::run(const Scale& op) {
  Call call(device_, op.kName, op.x);
  with_type(op.y, [&]<class T>(T*) {
    map("scale", stream_, Multiply{float(op.factor)}, op.y.numel(), op.y.data<T>(),
        static_cast<const T*>(op.x.data<T>()));
  });
}

void CudaKernels::run(const Accumulate& op) {
  Call call(device_, op.kName, op.x);
  with_type(op.y, [&]<class T>(T*) {
    with_type(op.x, [&]<class X>(X*) {
      map_into("accumulate", stream_, Same{}, true, op.y.numel(), op.y.data<T>(),
               static_cast<const X*>(op.x.data<X>()));
    });
  });
}

void CudaKernels::run(const Cast& op) {
  Call call(device_, op.kName, op.x);
  with_type(op.y, [&]<class T>(T*) {
    with_type(op.x, [&]<class X>(X*) {
      map("cast", stream_, Same{}, op.y.numel(), op.y.data<T>(),
          static_cast<const X*>(op.x.data<X>()));
    });
  });
}

void CudaKernels::add_epilogue(const Tensor& y, int64_t channels, const Epilogue& e) {
  int64_t images = e.per_image ? e.per_image.numel() / channels : 1, n = y.numel();
  with_type(y, [&]<class T>(T*) {
    auto run = [&]<class B>(B*) {
      launch("epilogue", epilogue_kernel<T, B>, {blocks_for(n, kMapBlock)}, kMapBlock, 0, stream_,
             y.data<T>(), e.bias ? e.bias.data<B>() : nullptr,
             e.per_image ? e.per_image.data<T>() : nullptr,
             e.residual ? e.residual.data<T>() : nullptr, n, channels, n / images, e.activation);
    };
    if (e.bias)
      with_type(e.bias, run);
    else
      run(static_cast<T*>(nullptr));
  });
}

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

}  // namespace spindle::cuda
