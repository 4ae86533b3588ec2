// What works element by element.
#include "kernels/cuda/activations.h"
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
struct Add {
  __device__ float operator()(float a, float b) const { return a + b; }
};
struct Scale {
  float factor;
  __device__ float operator()(float x) const { return x * factor; }
};
struct Copy {
  __device__ float operator()(float x) const { return x; }
};
struct Constant {
  float value;
  __device__ float operator()() const { return value; }
};
struct Lerp {
  float weight;
  __device__ float operator()(float y, float x) const { return y + weight * (x - y); }
};

// x (rows, 2 C) = [value, gate], y (rows, C)
template <class T>
__global__ void geglu_kernel(T* y, const T* x, int64_t rows, int64_t c) {
  int64_t i = int64_t(blockIdx.x) * kMapBlock + threadIdx.x;
  if (i >= rows * c) return;
  int64_t row = i / c, column = i - row * c;
  const T* from = x + row * 2 * c + column;
  y[i] = narrow<T>(widen(from[0]) * activate(widen(from[c]), Activation::Gelu));
}

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

template <class T>
__global__ void add_rows_kernel(T* y, const T* x, const T* rows, int64_t n, int64_t size) {
  int64_t i = int64_t(blockIdx.x) * kMapBlock + threadIdx.x;
  if (i < n) y[i] = narrow<T>(widen(x[i]) + widen(rows[i % size]));
}

// y = activation(y + bias + per_image[image]) + residual over (images * rows, c)
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

}  // namespace

void CudaKernels::activation_forward(Tensor& y, const Tensor& x, Activation kind) {
  Call call(device_, "activation_forward", x);
  with_type(x, [&]<class T>(T*) {
    map("activation", stream_, Activate{kind}, y.numel(), y.data<T>(),
        static_cast<const T*>(x.data<T>()));
  });
}

void CudaKernels::activation_backward(const GradSlot& dx,
                                      const Tensor& dy,
                                      const Tensor& x,
                                      Activation kind) {
  if (!dx) return;
  Call call(device_, "activation_backward", x);
  with_type(x, [&]<class T>(T*) {
    map_into("activation_backward", stream_, ActivateBackward{kind}, dx.accumulate, x.numel(),
             dx.tensor.data<T>(), static_cast<const T*>(dy.data<T>()),
             static_cast<const T*>(x.data<T>()));
  });
}

void CudaKernels::geglu_forward(Tensor& y, const Tensor& x) {
  Call call(device_, "geglu_forward", x);
  int64_t c = y.dim(-1);
  with_type(x, [&]<class T>(T*) {
    launch("geglu", geglu_kernel<T>, {blocks_for(y.numel(), kMapBlock)}, kMapBlock, 0, stream_,
           y.data<T>(), x.data<T>(), y.numel() / c, c);
  });
}

void CudaKernels::geglu_backward(const GradSlot& dx, const Tensor& dy, const Tensor& x) {
  if (!dx) return;
  Call call(device_, "geglu_backward", x);
  int64_t c = dy.dim(-1);
  with_type(x, [&]<class T>(T*) {
    launch("geglu_backward", geglu_backward_kernel<T>, {blocks_for(dy.numel(), kMapBlock)},
           kMapBlock, 0, stream_, dx.tensor.data<T>(), dy.data<T>(), x.data<T>(), dy.numel() / c, c,
           dx.accumulate);
  });
}

void CudaKernels::add(Tensor& y, const Tensor& a, const Tensor& b) {
  Call call(device_, "add", a);
  with_type(y, [&]<class T>(T*) {
    map("add", stream_, Add{}, y.numel(), y.data<T>(), static_cast<const T*>(a.data<T>()),
        static_cast<const T*>(b.data<T>()));
  });
}

void CudaKernels::add_rows(Tensor& y, const Tensor& x, const Tensor& rows) {
  Call call(device_, "add_rows", x, rows);
  with_type(y, [&]<class T>(T*) {
    launch("add_rows", add_rows_kernel<T>, {blocks_for(y.numel(), kMapBlock)}, kMapBlock, 0,
           stream_, y.data<T>(), x.data<T>(), rows.data<T>(), y.numel(), rows.numel());
  });
}

void CudaKernels::scale(Tensor& y, const Tensor& x, double factor) {
  Call call(device_, "scale", x);
  with_type(y, [&]<class T>(T*) {
    map("scale", stream_, Scale{float(factor)}, y.numel(), y.data<T>(),
        static_cast<const T*>(x.data<T>()));
  });
}

void CudaKernels::accumulate(Tensor& y, const Tensor& x) {
  Call call(device_, "accumulate", x);
  with_type(y, [&]<class T>(T*) {
    with_type(x, [&]<class X>(X*) {
      map_into("accumulate", stream_, Copy{}, true, y.numel(), y.data<T>(),
               static_cast<const X*>(x.data<X>()));
    });
  });
}

void CudaKernels::cast(Tensor& y, const Tensor& x) {
  Call call(device_, "cast", x);
  with_type(y, [&]<class T>(T*) {
    with_type(x, [&]<class X>(X*) {
      map("cast", stream_, Copy{}, y.numel(), y.data<T>(), static_cast<const X*>(x.data<X>()));
    });
  });
}

void CudaKernels::fill(Tensor& y, double value) {
  Call call(device_, "fill", y);
  with_type(y, [&]<class T>(T*) {
    map("fill", stream_, Constant{float(value)}, y.numel(), y.data<T>());
  });
}

void CudaKernels::lerp(Tensor& y, const Tensor& x, double weight) {
  Call call(device_, "lerp", y);
  map("lerp", stream_, Lerp{float(weight)}, y.numel(), y.f32(), static_cast<const float*>(y.f32()),
      static_cast<const float*>(x.f32()));
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

}  // namespace spindle::cuda
