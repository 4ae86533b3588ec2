// Layer norm and rows of length 1: one warp per row.
#include "kernels/cuda/column_sums.h"
#include "kernels/cuda/cuda_kernels.h"

namespace spindle::cuda {

namespace {

constexpr int kRowWarps = 4;

__device__ __forceinline__ int64_t row_of_warp() {
  return int64_t(blockIdx.x) * kRowWarps + threadIdx.x / kWarp;
}

// A warp owns one row of x (rows, c). Each of its three loops walks over the row with a stride of
// 32, so that lanes read neighbours: the mean, then the squares around it (two passes lose no
// digits where the mean is large; the row is in the cache by then), then the result. The mean is
// summed around the row's first value for the same reason.
template <class T>
__global__ void layer_norm_kernel(T* y,
                                  float* mean,
                                  float* rstd,
                                  const T* x,
                                  const float* gamma,
                                  const float* beta,
                                  int64_t rows,
                                  int64_t c,
                                  float eps) {
  int64_t row = row_of_warp();
  if (row >= rows) return;
  int lane = int(threadIdx.x) % kWarp;
  const T* from = x + row * c;
  float pivot = widen(from[0]), sum = 0, squares = 0;
  for (int64_t i = lane; i < c; i += kWarp) sum += widen(from[i]) - pivot;
  float mu = pivot + warp_sum(sum) / float(c);
  for (int64_t i = lane; i < c; i += kWarp) {
    float d = widen(from[i]) - mu;
    squares += d * d;
  }
  float scale = 1 / sqrtf(warp_sum(squares) / float(c) + eps);
  if (lane == 0) {
    mean[row] = mu;
    rstd[row] = scale;
  }
  for (int64_t i = lane; i < c; i += kWarp)
    y[row * c + i] = narrow<T>((widen(from[i]) - mu) * scale * gamma[i] + beta[i]);
}

// A warp owns one row. dx = rstd (d - mean(d) - xhat mean(d xhat)) with d = dy gamma: the first
// loop makes the two means, the second one the result.
template <class T>
__global__ void layer_norm_backward_kernel(T* dx,
                                           const T* dy,
                                           const T* x,
                                           const float* mean,
                                           const float* rstd,
                                           const float* gamma,
                                           int64_t rows,
                                           int64_t c,
                                           bool accumulate) {
  int64_t row = row_of_warp();
  if (row >= rows) return;
  int lane = int(threadIdx.x) % kWarp;
  float mu = mean[row], scale = rstd[row], sum = 0, product = 0;
  for (int64_t i = lane; i < c; i += kWarp) {
    float d = widen(dy[row * c + i]) * gamma[i];
    sum += d;
    product += d * (widen(x[row * c + i]) - mu) * scale;
  }
  sum = warp_sum(sum) / float(c);
  product = warp_sum(product) / float(c);
  for (int64_t i = lane; i < c; i += kWarp) {
    float normal = (widen(x[row * c + i]) - mu) * scale,
          out = scale * (widen(dy[row * c + i]) * gamma[i] - sum - normal * product);
    T* to = dx + row * c + i;
    *to = narrow<T>(accumulate ? widen(*to) + out : out);
  }
}

// What column_sums adds up for the parameters: dy for beta, dy * xhat for gamma, over all rows.
template <class T>
struct LayerTerms {
  const T *dy, *x;
  const float *mean, *rstd;
  int64_t c;
  __device__ int64_t column(int64_t, int64_t channel) const { return channel; }
  __device__ void add(Sums<2>& sums, int64_t channel, int64_t row) const {
    float d = widen(dy[row * c + channel]);
    sums.of[0] += d;
    sums.of[1] += d * (widen(x[row * c + channel]) - mean[row]) * rstd[row];
  }
};

// A warp owns one row: its squares, then the row divided by their root.
template <class T>
__global__ void l2_normalize_kernel(T* y, const T* x, int64_t rows, int64_t c) {
  int64_t row = row_of_warp();
  if (row >= rows) return;
  int lane = int(threadIdx.x) % kWarp;
  float squares = 0;
  for (int64_t i = lane; i < c; i += kWarp)
    squares += widen(x[row * c + i]) * widen(x[row * c + i]);
  squares = warp_sum(squares);
  float factor =
      squares > 0 ? 1 / sqrtf(squares) : 0;  // a row of zeros has no direction and stays as it is
  for (int64_t i = lane; i < c; i += kWarp)
    y[row * c + i] = narrow<T>(widen(x[row * c + i]) * factor);
}

}  // namespace

void CudaKernels::run(const LayerNormForward& op) {
  Call call(device_, op.kName, op.x);
  int64_t c = op.x.dim(-1), rows = op.x.numel() / c;
  with_type(op.x, [&]<class T>(T*) {
    launch("layer_norm", layer_norm_kernel<T>, {blocks_for(rows, kRowWarps)}, kRowWarps * kWarp, 0,
           stream_, op.y.data<T>(), op.mean.f32(), op.rstd.f32(), op.x.data<T>(), op.gamma.f32(),
           op.beta.f32(), rows, c, float(op.eps));
  });
}

void CudaKernels::run(const LayerNormBackward& op) {
  if (!op.dx && !op.dgamma && !op.dbeta) return;
  Call call(device_, op.kName, op.x);
  int64_t c = op.x.dim(-1), rows = op.x.numel() / c;
  with_type(op.x, [&]<class T>(T*) {
    if (op.dx)
      launch("layer_norm_backward", layer_norm_backward_kernel<T>, {blocks_for(rows, kRowWarps)},
             kRowWarps * kWarp, 0, stream_, op.dx.tensor.data<T>(), op.dy.data<T>(), op.x.data<T>(),
             op.mean.f32(), op.rstd.f32(), op.gamma.f32(), rows, c, op.dx.accumulate);
    if (!op.dgamma && !op.dbeta) return;
    Chunks chunks(rows);
    Tensor partial(scratch_, {chunks.count * c * 2}, DType::F32);
    column_sums("layer_parameters", stream_,
                LayerTerms<T>{op.dy.data<T>(), op.x.data<T>(), op.mean.f32(), op.rstd.f32(), c}, 1,
                rows, c, chunks, partial.data<Sums<2>>());
    norm_parameters(op.dgamma, op.dbeta, partial, c, chunks.count);
  });
}

void CudaKernels::run(const L2Normalize& op) {
  Call call(device_, op.kName, op.x);
  int64_t c = op.x.dim(-1), rows = op.x.numel() / c;
  with_type(op.x, [&]<class T>(T*) {
    launch("l2_normalize", l2_normalize_kernel<T>, {blocks_for(rows, kRowWarps)}, kRowWarps * kWarp,
           0, stream_, op.y.data<T>(), op.x.data<T>(), rows, c);
  });
}

}  // namespace spindle::cuda
