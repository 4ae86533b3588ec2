// Group norm (+ SiLU) in three passes: sums per channel in chunks of pixels, one warp per image and
// group that turns them into a line per channel, and the line applied. Statistics are taken around
// a value of the channel itself, so that a mean far from zero costs no digits.
#include "kernels/cuda/activations.h"
#include "kernels/cuda/column_sums.h"
#include "kernels/cuda/cuda_kernels.h"

namespace spindle::cuda {

namespace {

// x (images, pixels, c) in groups of `width` channels

// What column_sums adds up per channel: x minus the channel's first value, and the square of that.
// Around a value of the channel itself, so that a large mean costs no digits.
template <class T>
struct StatisticsTerms {
  const T* x;
  int64_t pixels, c;
  struct At {
    const T* x;
    float pivot;
  };
  __device__ At column(int64_t image, int64_t channel) const {
    const T* first = x + image * pixels * c + channel;
    return {first, widen(first[0])};
  }
  __device__ void add(Sums<2>& sums, const At& at, int64_t pixel) const {
    float d = widen(at.x[pixel * c]) - at.pivot;
    sums.of[0] += d;
    sums.of[1] += d * d;
  }
};

// A warp owns a group of an image; lanes walk over its channels, whose chunks they add in their
// order. The group's squares are moved from each channel's own mean to the group's, in double.
// line[0] and line[1] (images, c): y = x * line[0] + line[1].
template <class T>
__global__ void group_statistics_kernel(float* mean,
                                        float* rstd,
                                        float* line,
                                        const Sums<2>* partial,
                                        const T* x,
                                        const float* gamma,
                                        const float* beta,
                                        int64_t pixels,
                                        int64_t c,
                                        int64_t width,
                                        int64_t chunks,
                                        double eps) {
  int64_t groups = c / width, image = blockIdx.x / groups, group = blockIdx.x % groups,
          first = group * width;
  double n = double(pixels), sum = 0, squares = 0;
  auto channel_sums = [&](int64_t channel, double& s, double& q) {
    s = q = 0;
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
      const Sums<2>& p = partial[(image * chunks + chunk) * c + channel];
      s += double(p.of[0]);
      q += double(p.of[1]);
    }
  };
  auto channel_mean = [&](int64_t channel, double s) {
    return double(widen(x[image * pixels * c + channel])) + s / n;
  };
  for (int64_t i = threadIdx.x; i < width; i += kWarp) {
    double s, q;
    channel_sums(first + i, s, q);
    sum += channel_mean(first + i, s);
  }
  double mu = warp_sum(sum) / double(width);
  for (int64_t i = threadIdx.x; i < width; i += kWarp) {
    double s, q;
    channel_sums(first + i, s, q);
    double away = channel_mean(first + i, s) - mu, spread = q - s * s / n;
    squares += (spread > 0 ? spread : 0) + n * away * away;
  }
  double scale = 1 / sqrt(warp_sum(squares) / (n * double(width)) + eps);
  if (threadIdx.x == 0) {
    mean[blockIdx.x] = float(mu);
    rstd[blockIdx.x] = float(scale);
  }
  float* shift = line + int64_t(gridDim.x) / groups * c;
  for (int64_t i = threadIdx.x; i < width; i += kWarp) {
    double a = scale * double(gamma[first + i]);
    line[image * c + first + i] = float(a);
    shift[image * c + first + i] = float(double(beta[first + i]) - mu * a);
  }
}

// A thread has N neighbouring channels of a pixel; blockIdx.y is the image.
template <class T, int N, bool kSilu>
__global__ void group_apply_kernel(T* y, const T* x, const float* line, int64_t size, int c) {
  int64_t i = (int64_t(blockIdx.x) * kMapBlock + threadIdx.x) * N;
  if (i >= size) return;
  int64_t image = blockIdx.y;
  int channel = int(i % c);
  const float *a = line + image * c + channel, *b = a + int64_t(gridDim.y) * c;
  Pack<T, N> values = *reinterpret_cast<const Pack<T, N>*>(x + image * size + i);
  for (int k = 0; k < N; ++k) {
    float value = widen(values.values[k]) * a[k] + b[k];
    values.values[k] = narrow<T>(kSilu ? value * sigmoid(value) : value);
  }
  *reinterpret_cast<Pack<T, N>*>(y + image * size + i) = values;
}

// What column_sums adds up per channel in backward: d and d * xhat, d being dy after SiLU's
// derivative.
template <class T>
struct BackwardTerms {
  const T *dy, *x;
  const float *mean, *rstd, *gamma, *beta;
  int64_t pixels, c, width;
  bool silu;
  struct At {
    const T *dy, *x;
    float mean, rstd, gamma, beta;
  };
  __device__ At column(int64_t image, int64_t channel) const {
    int64_t first = image * pixels * c + channel, group = image * (c / width) + channel / width;
    return {dy + first, x + first, mean[group], rstd[group], gamma[channel], beta[channel]};
  }
  __device__ void add(Sums<2>& sums, const At& at, int64_t pixel) const {
    float normal = (widen(at.x[pixel * c]) - at.mean) * at.rstd, d = widen(at.dy[pixel * c]);
    if (silu) d *= activate_derivative(normal * at.gamma + at.beta, Activation::Silu);
    sums.of[0] += d;
    sums.of[1] += d * normal;
  }
};

// One warp per image and group. lines (3, images, c): dx = d * lines[0] + x * lines[1] + lines[2],
// with d = dy, after SiLU's derivative.
__global__ void group_backward_lines_kernel(float* lines,
                                            const Sums<2>* partial,
                                            const float* mean,
                                            const float* rstd,
                                            const float* gamma,
                                            int64_t pixels,
                                            int64_t c,
                                            int64_t width,
                                            int64_t chunks) {
  int64_t groups = c / width, images = gridDim.x / groups, image = blockIdx.x / groups,
          first = blockIdx.x % groups * width;
  double sum = 0, product = 0;
  for (int64_t i = threadIdx.x; i < width; i += kWarp) {
    double s = 0, p = 0;
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
      const Sums<2>& from = partial[(image * chunks + chunk) * c + first + i];
      s += double(from.of[0]);
      p += double(from.of[1]);
    }
    sum += s * double(gamma[first + i]);
    product += p * double(gamma[first + i]);
  }
  double n = double(pixels) * double(width), mu = double(mean[blockIdx.x]),
         scale = double(rstd[blockIdx.x]);
  sum = warp_sum(sum) / n;
  product = warp_sum(product) / n;
  for (int64_t i = threadIdx.x; i < width; i += kWarp) {
    float* to = lines + image * c + first + i;
    to[0] = float(scale * double(gamma[first + i]));
    to[images * c] = float(-scale * scale * product);
    to[2 * images * c] = float(mu * scale * scale * product - scale * sum);
  }
}

// A thread owns one element: with the three lines of its channel the gradient is d * a + x * b + c,
// and no sum over the group is left to do.
template <class T>
__global__ void group_backward_kernel(T* dx,
                                      const T* dy,
                                      const T* x,
                                      const float* lines,
                                      const float* mean,
                                      const float* rstd,
                                      const float* gamma,
                                      const float* beta,
                                      int64_t size,
                                      int c,
                                      int width,
                                      bool silu,
                                      bool accumulate) {
  int64_t i = int64_t(blockIdx.x) * kMapBlock + threadIdx.x;
  if (i >= size) return;
  int64_t image = blockIdx.y, images = gridDim.y;
  int channel = int(i % c);
  const float* at = lines + image * c + channel;
  float value = widen(x[image * size + i]), d = widen(dy[image * size + i]);
  if (silu) {
    int64_t group = image * (c / width) + channel / width;
    d *= activate_derivative((value - mean[group]) * rstd[group] * gamma[channel] + beta[channel],
                             Activation::Silu);
  }
  float out = d * at[0] + value * at[images * c] + at[2 * images * c];
  T* to = dx + image * size + i;
  *to = narrow<T>(accumulate ? widen(*to) + out : out);
}

// dgamma = sum of the second sums, dbeta of the first, over images and chunks in their order
__global__ void norm_parameters_kernel(float* dgamma,
                                       float* dbeta,
                                       const Sums<2>* partial,
                                       int64_t c,
                                       int64_t count,
                                       bool add_gamma,
                                       bool add_beta) {
  int64_t channel = int64_t(blockIdx.x) * kMapBlock + threadIdx.x;
  if (channel >= c) return;
  float s = 0, p = 0;
  for (int64_t i = 0; i < count; ++i) {
    s += partial[i * c + channel].of[0];
    p += partial[i * c + channel].of[1];
  }
  if (dgamma) dgamma[channel] = add_gamma ? dgamma[channel] + p : p;
  if (dbeta) dbeta[channel] = add_beta ? dbeta[channel] + s : s;
}

}  // namespace

void CudaKernels::run(const GroupNormForward& op) {
  Call call(device_, op.kName, op.x);
  int64_t images = op.x.dim(0), c = op.x.dim(-1), pixels = op.x.numel() / (images * c),
          width = c / op.args.groups;
  Chunks chunks(pixels);
  Tensor partial(scratch_, {images * chunks.count * c * 2}, DType::F32),
      line(scratch_, {2 * images * c}, DType::F32);
  with_type(op.x, [&]<class T>(T*) {
    column_sums("group_sums", stream_, StatisticsTerms<T>{op.x.data<T>(), pixels, c}, images,
                pixels, c, chunks, partial.data<Sums<2>>());
    launch("group_statistics", group_statistics_kernel<T>, {unsigned(images * op.args.groups)},
           kWarp, 0, stream_, op.mean.f32(), op.rstd.f32(), line.f32(), partial.data<Sums<2>>(),
           op.x.data<T>(), op.gamma.f32(), op.beta.f32(), pixels, c, width, chunks.count,
           op.args.eps);
    int64_t size = pixels * c;
    auto apply = [&](auto kernel, int64_t n) {
      launch("group_apply", kernel, {blocks_for(size, kMapBlock * n), unsigned(images)}, kMapBlock,
             0, stream_, op.y.data<T>(), op.x.data<T>(), line.f32(), size, int(c));
    };
    bool packs =
        c % kMapWidth == 0 && aligned_for_pack(op.x.data<T>()) && aligned_for_pack(op.y.data<T>());
    if (packs && op.args.silu)
      apply(group_apply_kernel<T, kMapWidth, true>, kMapWidth);
    else if (packs)
      apply(group_apply_kernel<T, kMapWidth, false>, kMapWidth);
    else if (op.args.silu)
      apply(group_apply_kernel<T, 1, true>, 1);
    else
      apply(group_apply_kernel<T, 1, false>, 1);
  });
}

void CudaKernels::norm_parameters(const GradSlot& dgamma,
                                  const GradSlot& dbeta,
                                  const Tensor& partial,
                                  int64_t c,
                                  int64_t count) {
  if (!dgamma && !dbeta) return;
  launch("norm_parameters", norm_parameters_kernel, {blocks_for(c, kMapBlock)}, kMapBlock, 0,
         stream_, dgamma ? dgamma.tensor.f32() : nullptr, dbeta ? dbeta.tensor.f32() : nullptr,
         partial.data<Sums<2>>(), c, count, dgamma.accumulate, dbeta.accumulate);
}

void CudaKernels::run(const GroupNormBackward& op) {
  if (!op.dx && !op.dgamma && !op.dbeta) return;
  Call call(device_, op.kName, op.x);
  int64_t images = op.x.dim(0), c = op.x.dim(-1), pixels = op.x.numel() / (images * c),
          width = c / op.args.groups;
  Chunks chunks(pixels);
  Tensor partial(scratch_, {images * chunks.count * c * 2}, DType::F32);
  with_type(op.x, [&]<class T>(T*) {
    BackwardTerms<T> terms{op.dy.data<T>(), op.x.data<T>(), op.mean.f32(), op.rstd.f32(),
                           op.gamma.f32(),  op.beta.f32(),  pixels,        c,
                           width,           op.args.silu};
    column_sums("group_backward_sums", stream_, terms, images, pixels, c, chunks,
                partial.data<Sums<2>>());
    if (!op.dx) return;
    Tensor lines(scratch_, {3 * images * c}, DType::F32);
    launch("group_backward_lines", group_backward_lines_kernel, {unsigned(images * op.args.groups)},
           kWarp, 0, stream_, lines.f32(), partial.data<Sums<2>>(), op.mean.f32(), op.rstd.f32(),
           op.gamma.f32(), pixels, c, width, chunks.count);
    launch("group_backward", group_backward_kernel<T>,
           {blocks_for(pixels * c, kMapBlock), unsigned(images)}, kMapBlock, 0, stream_,
           op.dx.tensor.data<T>(), op.dy.data<T>(), op.x.data<T>(), lines.f32(), op.mean.f32(),
           op.rstd.f32(), op.gamma.f32(), op.beta.f32(), pixels * c, int(c), int(width),
           op.args.silu, op.dx.accumulate);
  });
  norm_parameters(op.dgamma, op.dbeta, partial, c, images * chunks.count);
}

}  // namespace spindle::cuda
