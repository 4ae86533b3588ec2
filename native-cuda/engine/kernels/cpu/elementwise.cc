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

void CpuKernels::run(const ActivationForward& op) {
  pieces(op.x.numel(), kGrain, [&](int64_t a, int64_t b, int) {
    simd_.unary(at(op.y.raw(), a, op.y.dtype()), at(op.x.raw(), a, op.x.dtype()), b - a,
                unary_of(op.kind), is_bf16(op.x));
  });
}

void CpuKernels::run(const ActivationBackward& op) {
  pieces(op.x.numel(), kGrain, [&](int64_t a, int64_t b, int) {
    simd_.unary_backward(at(op.dx.tensor.raw(), a, op.x.dtype()), at(op.dy.raw(), a, op.x.dtype()),
                         at(op.x.raw(), a, op.x.dtype()), b - a, unary_of(op.kind),
                         op.dx.accumulate, is_bf16(op.x));
  });
}

void CpuKernels::run(const GegluForward& op) {
  int64_t channels = op.y.dim(-1), rows = op.y.numel() / channels;
  pieces(rows, std::max<int64_t>(1, kGrain / channels), [&](int64_t a, int64_t b, int) {
    simd_.geglu(at(op.y.raw(), a * channels, op.y.dtype()),
                at(op.x.raw(), a * 2 * channels, op.x.dtype()), b - a, channels, is_bf16(op.x));
  });
}

void CpuKernels::run(const GegluBackward& op) {
  int64_t channels = op.dy.dim(-1), rows = op.dy.numel() / channels;
  pieces(rows, std::max<int64_t>(1, kGrain / channels), [&](int64_t a, int64_t b, int) {
    simd_.geglu_backward(at(op.dx.tensor.raw(), a * 2 * channels, op.x.dtype()),
                         at(op.dy.raw(), a * channels, op.dy.dtype()),
                         at(op.x.raw(), a * 2 * channels, op.x.dtype()), b - a, channels,
                         op.dx.accumulate, is_bf16(op.x));
  });
}

void CpuKernels::run(const Add& op) {
  pieces(op.y.numel(), kGrain, [&](int64_t i, int64_t j, int) {
    simd_.add(at(op.y.raw(), i, op.y.dtype()), at(op.a.raw(), i, op.a.dtype()),
              at(op.b.raw(), i, op.b.dtype()), j - i, is_bf16(op.y));
  });
}

void CpuKernels::run(const AddRows& op) {
  int64_t n = op.rows.numel();
  pieces(op.y.numel() / n, 1, [&](int64_t i, int64_t, int) {
    simd_.add(at(op.y.raw(), i * n, op.y.dtype()), at(op.x.raw(), i * n, op.x.dtype()),
              op.rows.raw(), n, is_bf16(op.y));
  });
}

void CpuKernels::run(const SumToRows& op) {
  int64_t n = op.drows.tensor.numel(), count = op.dy.numel() / n;
  bool bf16 = is_bf16(op.drows.tensor);
  pieces(n, 1024, [&](int64_t a, int64_t b, int thread) {
    float* sum = reinterpret_cast<float*>(scratch(thread, (b - a) * 4));
    std::fill_n(sum, b - a, 0.0f);
    simd_.column_sums(sum, at(op.dy.raw(), a, op.dy.dtype()), count, b - a, n, is_bf16(op.dy));
    RowCall call{at(op.drows.tensor.raw(), a, op.drows.tensor.dtype()),
                 sum,
                 nullptr,
                 nullptr,
                 nullptr,
                 b - a,
                 op.drows.accumulate};
    simd_.store_row(call, bf16);
  });
}

void CpuKernels::run(const SumPerImage& op) {
  int64_t batch = op.dt.tensor.dim(0), n = op.dt.tensor.dim(1), pixels = op.dy.numel() / batch / n;
  threads_.run(batch, [&](int64_t image, int thread) {
    float* sum = reinterpret_cast<float*>(scratch(thread, n * 4));
    std::fill_n(sum, n, 0.0f);
    simd_.column_sums(sum, at(op.dy.raw(), image * pixels * n, op.dy.dtype()), pixels, n, n,
                      is_bf16(op.dy));
    RowCall call{at(op.dt.tensor.raw(), image * n, op.dt.tensor.dtype()),
                 sum,
                 nullptr,
                 nullptr,
                 nullptr,
                 n,
                 op.dt.accumulate};
    simd_.store_row(call, is_bf16(op.dt.tensor));
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

void CpuKernels::run(const Scale& op) {
  pieces(op.y.numel(), kGrain, [&](int64_t a, int64_t b, int) {
    simd_.scale(at(op.y.raw(), a, op.y.dtype()), at(op.x.raw(), a, op.x.dtype()), float(op.factor),
                b - a, is_bf16(op.y));
  });
}

void CpuKernels::run(const Accumulate& op) { run(Add{.y = op.y, .a = op.y, .b = op.x}); }

void CpuKernels::run(const Cast& op) {
  pieces(op.y.numel(), kGrain, [&](int64_t a, int64_t b, int) {
    void* to = at(op.y.raw(), a, op.y.dtype());
    const void* from = at(op.x.raw(), a, op.x.dtype());
    if (op.x.dtype() == op.y.dtype())
      std::memcpy(to, from, size_t(b - a) * dtype_size(op.y.dtype()));
    else if (is_bf16(op.y))
      simd_.to_bf16(static_cast<uint16_t*>(to), static_cast<const float*>(from), b - a);
    else
      simd_.to_f32(static_cast<float*>(to), static_cast<const uint16_t*>(from), b - a);
  });
}

void CpuKernels::run(const L2Normalize& op) {
  int64_t n = op.x.dim(-1), rows = op.x.numel() / n;
  for (int64_t r = 0; r < rows; ++r) {
    std::vector<float> row(static_cast<size_t>(n));
    if (is_bf16(op.x))
      simd_.to_f32(row.data(), op.x.data<uint16_t>() + r * n, n);
    else
      std::memcpy(row.data(), op.x.f32() + r * n, size_t(n) * 4);
    double squares = simd_.sum_of_squares(row.data(), n);
    float factor = squares > 0 ? float(1.0 / std::sqrt(squares)) : 0.0f;
    simd_.scale(row.data(), row.data(), factor, n, false);
    if (is_bf16(op.y))
      simd_.to_bf16(op.y.data<uint16_t>() + r * n, row.data(), n);
    else
      std::memcpy(op.y.f32() + r * n, row.data(), size_t(n) * 4);
  }
}

void CpuKernels::run(const TimestepEmbedding& op) {
  int64_t batch = op.y.dim(0), dim = op.y.dim(1), half = dim / 2;
  for (int64_t i = 0; i < batch; ++i)
    for (int64_t j = 0; j < half; ++j) {
      // In double: at t = 999 a float32 product already moves the sine by 6e-5.
      double angle =
          double(op.timesteps.f32()[i]) *
          std::exp(-std::log(op.args.max_period) * double(j) / (double(half) - op.args.freq_shift));
      float first = float(op.args.flip_sin_to_cos ? std::cos(angle) : std::sin(angle)),
            second = float(op.args.flip_sin_to_cos ? std::sin(angle) : std::cos(angle));
      if (is_bf16(op.y)) {
        op.y.data<uint16_t>()[i * dim + j] = spindle::to_bf16(first).bits;
        op.y.data<uint16_t>()[i * dim + half + j] = spindle::to_bf16(second).bits;
      } else {
        op.y.f32()[i * dim + j] = first;
        op.y.f32()[i * dim + half + j] = second;
      }
    }
}

}  // namespace spindle::cpu
