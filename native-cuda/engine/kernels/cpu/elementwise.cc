// What works element by element, and the sums that go back from it: passes over memory, cut into
// tasks of a fixed number of elements.
#include <cmath>
#include <cstring>

#include "kernels/cpu/operators.h"

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

void run(CpuContext& cpu, const ActivationForward& op) {
  cpu.pieces(op.x.numel(), kGrain, [&](int64_t a, int64_t b, int) {
    cpu.simd.unary(at(op.y.raw(), a, op.y.dtype()), at(op.x.raw(), a, op.x.dtype()), b - a,
                   unary_of(op.kind), is_bf16(op.x));
  });
}

void run(CpuContext& cpu, const ActivationBackward& op) {
  cpu.pieces(op.x.numel(), kGrain, [&](int64_t a, int64_t b, int) {
    cpu.simd.unary_backward(at(op.dx.tensor.raw(), a, op.x.dtype()),
                            at(op.dy.raw(), a, op.x.dtype()), at(op.x.raw(), a, op.x.dtype()),
                            b - a, unary_of(op.kind), op.dx.accumulate, is_bf16(op.x));
  });
}

void run(CpuContext& cpu, const GegluForward& op) {
  int64_t channels = op.y.dim(-1), rows = op.y.numel() / channels;
  cpu.pieces(rows, std::max<int64_t>(1, kGrain / channels), [&](int64_t a, int64_t b, int) {
    cpu.simd.geglu(at(op.y.raw(), a * channels, op.y.dtype()),
                   at(op.x.raw(), a * 2 * channels, op.x.dtype()), b - a, channels, is_bf16(op.x));
  });
}

void run(CpuContext& cpu, const GegluBackward& op) {
  int64_t channels = op.dy.dim(-1), rows = op.dy.numel() / channels;
  cpu.pieces(rows, std::max<int64_t>(1, kGrain / channels), [&](int64_t a, int64_t b, int) {
    cpu.simd.geglu_backward(at(op.dx.tensor.raw(), a * 2 * channels, op.x.dtype()),
                            at(op.dy.raw(), a * channels, op.dy.dtype()),
                            at(op.x.raw(), a * 2 * channels, op.x.dtype()), b - a, channels,
                            op.dx.accumulate, is_bf16(op.x));
  });
}

void run(CpuContext& cpu, const Add& op) {
  cpu.pieces(op.y.numel(), kGrain, [&](int64_t i, int64_t j, int) {
    cpu.simd.add(at(op.y.raw(), i, op.y.dtype()), at(op.a.raw(), i, op.a.dtype()),
                 at(op.b.raw(), i, op.b.dtype()), j - i, is_bf16(op.y));
  });
}

void run(CpuContext& cpu, const AddRows& op) {
  int64_t n = op.rows.numel();
  cpu.pieces(op.y.numel() / n, 1, [&](int64_t i, int64_t, int) {
    cpu.simd.add(at(op.y.raw(), i * n, op.y.dtype()), at(op.x.raw(), i * n, op.x.dtype()),
                 op.rows.raw(), n, is_bf16(op.y));
  });
}

void run(CpuContext& cpu, const SumToRows& op) {
  int64_t n = op.drows.tensor.numel(), count = op.dy.numel() / n;
  bool bf16 = is_bf16(op.drows.tensor);
  cpu.pieces(n, 1024, [&](int64_t a, int64_t b, int thread) {
    float* sum = reinterpret_cast<float*>(cpu.scratch(thread, (b - a) * 4));
    std::fill_n(sum, b - a, 0.0f);
    cpu.simd.column_sums(sum, at(op.dy.raw(), a, op.dy.dtype()), count, b - a, n, is_bf16(op.dy));
    RowCall call{at(op.drows.tensor.raw(), a, op.drows.tensor.dtype()),
                 sum,
                 nullptr,
                 nullptr,
                 nullptr,
                 b - a,
                 op.drows.accumulate};
    cpu.simd.store_row(call, bf16);
  });
}

void run(CpuContext& cpu, const SumPerImage& op) {
  int64_t batch = op.dt.tensor.dim(0), n = op.dt.tensor.dim(1), pixels = op.dy.numel() / batch / n;
  cpu.threads.run(batch, [&](int64_t image, int thread) {
    float* sum = reinterpret_cast<float*>(cpu.scratch(thread, n * 4));
    std::fill_n(sum, n, 0.0f);
    cpu.simd.column_sums(sum, at(op.dy.raw(), image * pixels * n, op.dy.dtype()), pixels, n, n,
                         is_bf16(op.dy));
    RowCall call{at(op.dt.tensor.raw(), image * n, op.dt.tensor.dtype()),
                 sum,
                 nullptr,
                 nullptr,
                 nullptr,
                 n,
                 op.dt.accumulate};
    cpu.simd.store_row(call, is_bf16(op.dt.tensor));
  });
}

void run(CpuContext& cpu, const Scale& op) {
  cpu.pieces(op.y.numel(), kGrain, [&](int64_t a, int64_t b, int) {
    cpu.simd.scale(at(op.y.raw(), a, op.y.dtype()), at(op.x.raw(), a, op.x.dtype()),
                   float(op.factor), b - a, is_bf16(op.y));
  });
}

void run(CpuContext& cpu, const Accumulate& op) { run(cpu, Add{.y = op.y, .a = op.y, .b = op.x}); }

void run(CpuContext& cpu, const Cast& op) {
  cpu.pieces(op.y.numel(), kGrain, [&](int64_t a, int64_t b, int) {
    void* to = at(op.y.raw(), a, op.y.dtype());
    const void* from = at(op.x.raw(), a, op.x.dtype());
    if (op.x.dtype() == op.y.dtype())
      std::memcpy(to, from, size_t(b - a) * dtype_size(op.y.dtype()));
    else if (is_bf16(op.y))
      cpu.simd.to_bf16(static_cast<uint16_t*>(to), static_cast<const float*>(from), b - a);
    else
      cpu.simd.to_f32(static_cast<float*>(to), static_cast<const uint16_t*>(from), b - a);
  });
}

}  // namespace spindle::cpu
