#include <cmath>
#include <cstring>

#include "kernels/cpu/cpu_kernels.h"

namespace spindle::cpu {

namespace {
// Elements of one task of a pass over memory.
constexpr int64_t kGrain = 16384;

Unary unary_of(Activation kind) {
  switch (kind) {
    case Activation::Silu:
      return Unary::Silu;
    case Activation::Gelu:
      return Unary::Gelu;
    case Activation::QuickGelu:
      return Unary::QuickGelu;
    case Activation::None:
      return Unary::None;
  }
  return Unary::None;
}
}  // namespace

void CpuKernels::activation_forward(Tensor& y, const Tensor& x, Activation kind) {
  pieces(x.numel(), kGrain, [&](int64_t a, int64_t b, int) {
    simd_.unary(at(y.raw(), a, y.dtype()), at(x.raw(), a, x.dtype()), b - a, unary_of(kind),
                is_bf16(x));
  });
}

void CpuKernels::activation_backward(const GradSlot& dx,
                                     const Tensor& dy,
                                     const Tensor& x,
                                     Activation kind) {
  pieces(x.numel(), kGrain, [&](int64_t a, int64_t b, int) {
    simd_.unary_backward(at(dx.tensor.raw(), a, x.dtype()), at(dy.raw(), a, x.dtype()),
                         at(x.raw(), a, x.dtype()), b - a, unary_of(kind), dx.accumulate,
                         is_bf16(x));
  });
}

void CpuKernels::geglu_forward(Tensor& y, const Tensor& x) {
  int64_t channels = y.dim(-1), rows = y.numel() / channels;
  pieces(rows, std::max<int64_t>(1, kGrain / channels), [&](int64_t a, int64_t b, int) {
    simd_.geglu(at(y.raw(), a * channels, y.dtype()), at(x.raw(), a * 2 * channels, x.dtype()),
                b - a, channels, is_bf16(x));
  });
}

void CpuKernels::geglu_backward(const GradSlot& dx, const Tensor& dy, const Tensor& x) {
  int64_t channels = dy.dim(-1), rows = dy.numel() / channels;
  pieces(rows, std::max<int64_t>(1, kGrain / channels), [&](int64_t a, int64_t b, int) {
    simd_.geglu_backward(
        at(dx.tensor.raw(), a * 2 * channels, x.dtype()), at(dy.raw(), a * channels, dy.dtype()),
        at(x.raw(), a * 2 * channels, x.dtype()), b - a, channels, dx.accumulate, is_bf16(x));
  });
}

void CpuKernels::add(Tensor& y, const Tensor& a, const Tensor& b) {
  pieces(y.numel(), kGrain, [&](int64_t i, int64_t j, int) {
    simd_.add(at(y.raw(), i, y.dtype()), at(a.raw(), i, a.dtype()), at(b.raw(), i, b.dtype()),
              j - i, is_bf16(y));
  });
}

void CpuKernels::add_rows(Tensor& y, const Tensor& x, const Tensor& rows) {
  int64_t n = rows.numel();
  pieces(y.numel() / n, 1, [&](int64_t i, int64_t, int) {
    simd_.add(at(y.raw(), i * n, y.dtype()), at(x.raw(), i * n, x.dtype()), rows.raw(), n,
              is_bf16(y));
  });
}

void CpuKernels::sum_to_rows(const GradSlot& drows, const Tensor& dy) {
  int64_t n = drows.tensor.numel(), count = dy.numel() / n;
  bool bf16 = is_bf16(drows.tensor);
  pieces(n, 1024, [&](int64_t a, int64_t b, int thread) {
    float* sum = reinterpret_cast<float*>(scratch(thread, (b - a) * 4));
    std::fill_n(sum, b - a, 0.0f);
    simd_.column_sums(sum, at(dy.raw(), a, dy.dtype()), count, b - a, n, is_bf16(dy));
    RowCall call{at(drows.tensor.raw(), a, drows.tensor.dtype()),
                 sum,
                 nullptr,
                 nullptr,
                 nullptr,
                 b - a,
                 drows.accumulate};
    simd_.store_row(call, bf16);
  });
}

void CpuKernels::sum_per_image(const GradSlot& dt, const Tensor& dy) {
  int64_t batch = dt.tensor.dim(0), n = dt.tensor.dim(1), pixels = dy.numel() / batch / n;
  threads_.run(batch, [&](int64_t image, int thread) {
    float* sum = reinterpret_cast<float*>(scratch(thread, n * 4));
    std::fill_n(sum, n, 0.0f);
    simd_.column_sums(sum, at(dy.raw(), image * pixels * n, dy.dtype()), pixels, n, n, is_bf16(dy));
    RowCall call{at(dt.tensor.raw(), image * n, dt.tensor.dtype()),
                 sum,
                 nullptr,
                 nullptr,
                 nullptr,
                 n,
                 dt.accumulate};
    simd_.store_row(call, is_bf16(dt.tensor));
  });
}

void CpuKernels::bias_gradient(const GradSlot& db, const Tensor& dy, int64_t rows, int64_t n) {
  // Fixed pieces of rows, summed in order.
  constexpr int64_t kPiece = 2048;
  int64_t count = divide_up(rows, kPiece);
  float* partial = reinterpret_cast<float*>(shared_scratch(count * n * 4));
  std::fill_n(partial, count * n, 0.0f);
  pieces(rows, kPiece, [&](int64_t a, int64_t b, int) {
    simd_.column_sums(partial + a / kPiece * n, at(dy.raw(), a * n, dy.dtype()), b - a, n, n,
                      is_bf16(dy));
  });
  float* out = db.tensor.f32();
  for (int64_t j = 0; j < n; ++j) {
    double total = 0;
    for (int64_t i = 0; i < count; ++i) total += double(partial[i * n + j]);
    out[j] = (db.accumulate ? out[j] : 0.0f) + float(total);
  }
}

void CpuKernels::scale(Tensor& y, const Tensor& x, double factor) {
  pieces(y.numel(), kGrain, [&](int64_t a, int64_t b, int) {
    simd_.scale(at(y.raw(), a, y.dtype()), at(x.raw(), a, x.dtype()), float(factor), b - a,
                is_bf16(y));
  });
}

void CpuKernels::accumulate(Tensor& y, const Tensor& x) { add(y, y, x); }

void CpuKernels::cast(Tensor& y, const Tensor& x) {
  pieces(y.numel(), kGrain, [&](int64_t a, int64_t b, int) {
    void* to = at(y.raw(), a, y.dtype());
    const void* from = at(x.raw(), a, x.dtype());
    if (x.dtype() == y.dtype())
      std::memcpy(to, from, size_t(b - a) * dtype_size(y.dtype()));
    else if (is_bf16(y))
      simd_.to_bf16(static_cast<uint16_t*>(to), static_cast<const float*>(from), b - a);
    else
      simd_.to_f32(static_cast<float*>(to), static_cast<const uint16_t*>(from), b - a);
  });
}

void CpuKernels::fill(Tensor& y, double value) {
  if (is_bf16(y))
    std::fill_n(y.data<uint16_t>(), y.numel(), spindle::to_bf16(float(value)).bits);
  else
    std::fill_n(y.f32(), y.numel(), float(value));
}

void CpuKernels::l2_normalize(Tensor& y, const Tensor& x) {
  int64_t n = x.dim(-1), rows = x.numel() / n;
  for (int64_t r = 0; r < rows; ++r) {
    std::vector<float> row(static_cast<size_t>(n));
    if (is_bf16(x))
      simd_.to_f32(row.data(), x.data<uint16_t>() + r * n, n);
    else
      std::memcpy(row.data(), x.f32() + r * n, size_t(n) * 4);
    double squares = simd_.sum_of_squares(row.data(), n);
    float factor = squares > 0 ? float(1.0 / std::sqrt(squares)) : 0.0f;
    simd_.scale(row.data(), row.data(), factor, n, false);
    if (is_bf16(y))
      simd_.to_bf16(y.data<uint16_t>() + r * n, row.data(), n);
    else
      std::memcpy(y.f32() + r * n, row.data(), size_t(n) * 4);
  }
}

void CpuKernels::timestep_embedding(Tensor& y, const Tensor& timesteps, const TimestepArgs& args) {
  int64_t batch = y.dim(0), dim = y.dim(1), half = dim / 2;
  for (int64_t i = 0; i < batch; ++i)
    for (int64_t j = 0; j < half; ++j) {
      // In double: at t = 999 a float32 product already moves the sine by 6e-5.
      double angle = double(timesteps.f32()[i]) * std::exp(-std::log(args.max_period) * double(j) /
                                                           (double(half) - args.freq_shift));
      float first = float(args.flip_sin_to_cos ? std::cos(angle) : std::sin(angle)),
            second = float(args.flip_sin_to_cos ? std::sin(angle) : std::cos(angle));
      if (is_bf16(y)) {
        y.data<uint16_t>()[i * dim + j] = spindle::to_bf16(first).bits;
        y.data<uint16_t>()[i * dim + half + j] = spindle::to_bf16(second).bits;
      } else {
        y.f32()[i * dim + j] = first;
        y.f32()[i * dim + half + j] = second;
      }
    }
}

}  // namespace spindle::cpu
