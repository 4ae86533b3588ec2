// Where values go to other places: concatenation, resampling, tables, layouts.
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/map.h"

namespace spindle::cuda {

namespace {

// rows of (ca + cb) units, a unit being N elements
template <class T, int N>
__global__ void concat_kernel(Pack<T, N>* y,
                              const Pack<T, N>* a,
                              const Pack<T, N>* b,
                              int64_t n,
                              int64_t ca,
                              int64_t cb) {
  int64_t i = int64_t(blockIdx.x) * kMapBlock + threadIdx.x;
  if (i >= n) return;
  int64_t row = i / (ca + cb), c = i - row * (ca + cb);
  y[i] = c < ca ? a[row * ca + c] : b[row * cb + c - ca];
}

template <class T, int N>
__device__ __forceinline__ void put(Pack<T, N>* to, Pack<T, N> from, bool accumulate) {
  if (accumulate)
    for (int k = 0; k < N; ++k)
      from.values[k] = narrow<T>(widen(to->values[k]) + widen(from.values[k]));
  *to = from;
}

// The other way: a thread owns one unit of y and puts it where it came from. a or b may be null:
// then nobody wants that half.
template <class T, int N>
__global__ void split_kernel(Pack<T, N>* a,
                             Pack<T, N>* b,
                             const Pack<T, N>* y,
                             int64_t n,
                             int64_t ca,
                             int64_t cb,
                             bool add_a,
                             bool add_b) {
  int64_t i = int64_t(blockIdx.x) * kMapBlock + threadIdx.x;
  if (i >= n) return;
  int64_t row = i / (ca + cb), c = i - row * (ca + cb);
  if (c < ca) {
    if (a) put(a + row * ca + c, y[i], add_a);
  } else if (b) {
    put(b + row * cb + c - ca, y[i], add_b);
  }
}

// Calls f with a null pointer to the unit: 8 elements where widths and addresses allow it.
template <class T, class F>
void with_unit(int64_t ca, int64_t cb, bool aligned, F&& f) {
  if (aligned && ca % kMapWidth == 0 && cb % kMapWidth == 0)
    f(static_cast<Pack<T, kMapWidth>*>(nullptr), int64_t(kMapWidth));
  else
    f(static_cast<Pack<T, 1>*>(nullptr), int64_t(1));
}

struct Sizes {
  int64_t height, width, channels, to_height, to_width;
};

// A thread owns one element of y (B, to_height, to_width, C) and copies the nearest of x, whose row
// is h * height / to_height, rounded down.
template <class T>
__global__ void upsample_kernel(T* y, const T* x, int64_t n, Sizes s) {
  int64_t i = int64_t(blockIdx.x) * kMapBlock + threadIdx.x;
  if (i >= n) return;
  int64_t c = i % s.channels, pixel = i / s.channels, w = pixel % s.to_width,
          line = pixel / s.to_width, h = line % s.to_height, b = line / s.to_height;
  y[i] = x[((b * s.height + h * s.height / s.to_height) * s.width + w * s.width / s.to_width) *
               s.channels +
           c];
}

// Every element of dx adds up those of dy that came from it, in their order.
template <class T>
__global__ void upsample_backward_kernel(T* dx, const T* dy, int64_t n, Sizes s, bool accumulate) {
  int64_t i = int64_t(blockIdx.x) * kMapBlock + threadIdx.x;
  if (i >= n) return;
  int64_t c = i % s.channels, pixel = i / s.channels, w = pixel % s.width, line = pixel / s.width,
          h = line % s.height, b = line / s.height;
  // h2 * height / to_height == h for h2 from ceil(h * to_height / height)
  int64_t h0 = (h * s.to_height + s.height - 1) / s.height,
          h1 = ((h + 1) * s.to_height + s.height - 1) / s.height;
  int64_t w0 = (w * s.to_width + s.width - 1) / s.width,
          w1 = ((w + 1) * s.to_width + s.width - 1) / s.width;
  float sum = 0;
  for (int64_t y = h0; y < h1; ++y)
    for (int64_t x = w0; x < w1; ++x)
      sum += widen(dy[((b * s.to_height + y) * s.to_width + x) * s.channels + c]);
  dx[i] = narrow<T>(accumulate ? widen(dx[i]) + sum : sum);
}

// A thread owns one element of y (count, width): rows[i] of the table.
template <class T, class X>
__global__ void take_rows_kernel(T* y,
                                 const X* table,
                                 const int32_t* rows,
                                 int64_t n,
                                 int64_t width) {
  int64_t i = int64_t(blockIdx.x) * kMapBlock + threadIdx.x;
  if (i < n) y[i] = narrow<T>(widen(table[int64_t(rows[i / width]) * width + i % width]));
}

// A thread owns one element of y (B, 2 half): a sine or a cosine of its image's timestep.
template <class T>
__global__ void timestep_kernel(T* y,
                                const float* timesteps,
                                int64_t n,
                                int64_t half,
                                TimestepArgs args) {
  int64_t i = int64_t(blockIdx.x) * kMapBlock + threadIdx.x;
  if (i >= n) return;
  int64_t b = i / (2 * half), c = i % (2 * half), k = c % half;
  // double: an angle of 999 has few digits left in float32
  double angle = double(timesteps[b]) *
                 exp(-log(args.max_period) * double(k) / (double(half) - args.freq_shift));
  bool sine = (c >= half) == args.flip_sin_to_cos;
  y[i] = narrow<T>(float(sine ? sin(angle) : cos(angle)));
}

// (b, p, c) -> (b, c, p), read in the order of the output
template <class T, class X>
__global__ void swap_kernel(T* y, const X* x, int64_t n, int64_t p, int64_t c) {
  int64_t i = int64_t(blockIdx.x) * kMapBlock + threadIdx.x;
  if (i >= n) return;
  int64_t b = i / (p * c), rest = i - b * p * c, ic = rest / p, ip = rest - ic * p;
  y[i] = narrow<T>(widen(x[(b * p + ip) * c + ic]));
}

void swap_inner(Stream stream, const Tensor& y, const Tensor& x, int64_t p, int64_t c) {
  with_type(y, [&]<class T>(T*) {
    with_type(x, [&]<class X>(X*) {
      launch("swap", swap_kernel<T, X>, {blocks_for(y.numel(), kMapBlock)}, kMapBlock, 0, stream,
             y.data<T>(), x.data<X>(), y.numel(), p, c);
    });
  });
}

}  // namespace

void CudaKernels::run(const ConcatChannels& op) {
  Call call(device_, op.kName, op.a, op.b);
  int64_t ca = op.a.dim(-1), cb = op.b.dim(-1);
  with_type(op.y, [&]<class T>(T*) {
    bool aligned = aligned_for_pack(op.y.data<T>()) && aligned_for_pack(op.a.data<T>()) &&
                   aligned_for_pack(op.b.data<T>());
    with_unit<T>(ca, cb, aligned, [&]<class U, int N>(Pack<U, N>*, int64_t unit) {
      int64_t n = op.y.numel() / unit;
      launch("concat", concat_kernel<T, N>, {blocks_for(n, kMapBlock)}, kMapBlock, 0, stream_,
             op.y.data<Pack<T, N>>(), op.a.data<Pack<T, N>>(), op.b.data<Pack<T, N>>(), n,
             ca / unit, cb / unit);
    });
  });
}

void CudaKernels::run(const SplitChannels& op) {
  if (!op.da && !op.db) return;
  Call call(device_, op.kName, op.dy);
  int64_t c = op.dy.dim(-1), ca = op.da ? op.da.tensor.dim(-1) : c - op.db.tensor.dim(-1),
          cb = c - ca;
  with_type(op.dy, [&]<class T>(T*) {
    auto start = [](const GradSlot& slot) { return slot ? slot.tensor.data<T>() : nullptr; };
    bool aligned = aligned_for_pack(op.dy.data<T>()) && aligned_for_pack(start(op.da)) &&
                   aligned_for_pack(start(op.db));
    with_unit<T>(ca, cb, aligned, [&]<class U, int N>(Pack<U, N>*, int64_t unit) {
      int64_t n = op.dy.numel() / unit;
      launch("split", split_kernel<T, N>, {blocks_for(n, kMapBlock)}, kMapBlock, 0, stream_,
             reinterpret_cast<Pack<T, N>*>(start(op.da)),
             reinterpret_cast<Pack<T, N>*>(start(op.db)), op.dy.data<Pack<T, N>>(), n, ca / unit,
             cb / unit, op.da.accumulate, op.db.accumulate);
    });
  });
}

void CudaKernels::run(const UpsampleNearestForward& op) {
  Call call(device_, op.kName, op.x);
  Sizes s{op.x.dim(1), op.x.dim(2), op.x.dim(3), op.y.dim(1), op.y.dim(2)};
  with_type(op.y, [&]<class T>(T*) {
    launch("upsample", upsample_kernel<T>, {blocks_for(op.y.numel(), kMapBlock)}, kMapBlock, 0,
           stream_, op.y.data<T>(), op.x.data<T>(), op.y.numel(), s);
  });
}

void CudaKernels::run(const UpsampleNearestBackward& op) {
  if (!op.dx) return;
  Call call(device_, op.kName, op.dy);
  const Tensor& to = op.dx.tensor;
  Sizes s{to.dim(1), to.dim(2), to.dim(3), op.dy.dim(1), op.dy.dim(2)};
  with_type(op.dy, [&]<class T>(T*) {
    launch("upsample_backward", upsample_backward_kernel<T>, {blocks_for(to.numel(), kMapBlock)},
           kMapBlock, 0, stream_, to.data<T>(), op.dy.data<T>(), to.numel(), s, op.dx.accumulate);
  });
}

void CudaKernels::take_rows(const Tensor& y, const Tensor& table, std::span<const int32_t> rows) {
  // Of four bytes, like the ids.
  Tensor ids(scratch_, {int64_t(rows.size())}, DType::F32);
  upload(ids, rows.data());
  with_type(y, [&]<class T>(T*) {
    with_type(table, [&]<class X>(X*) {
      launch("take_rows", take_rows_kernel<T, X>, {blocks_for(y.numel(), kMapBlock)}, kMapBlock, 0,
             stream_, y.data<T>(), table.data<X>(), ids.data<int32_t>(), y.numel(), table.dim(-1));
    });
  });
}

void CudaKernels::run(const EmbeddingForward& op) {
  Call call(device_, op.kName, op.y, op.table);
  take_rows(op.y, op.table, op.ids);
}

void CudaKernels::run(const GatherRows& op) {
  Call call(device_, op.kName, op.y, op.x);
  take_rows(op.y, op.x, op.rows);
}

void CudaKernels::run(const TimestepEmbedding& op) {
  Call call(device_, op.kName, op.y);
  with_type(op.y, [&]<class T>(T*) {
    launch("timestep", timestep_kernel<T>, {blocks_for(op.y.numel(), kMapBlock)}, kMapBlock, 0,
           stream_, op.y.data<T>(), op.timesteps.f32(), op.y.numel(), op.y.dim(1) / 2, op.args);
  });
}

void CudaKernels::run(const NchwToNhwc& op) {
  Call call(device_, op.kName, op.x);
  swap_inner(stream_, op.y, op.x, op.y.dim(3), op.y.dim(1) * op.y.dim(2));
}

void CudaKernels::run(const NhwcToNchw& op) {
  Call call(device_, op.kName, op.x);
  swap_inner(stream_, op.y, op.x, op.x.dim(1) * op.x.dim(2), op.x.dim(3));
}

}  // namespace spindle::cuda
