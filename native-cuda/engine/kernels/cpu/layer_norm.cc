// Layer norm, a task per 64 rows: the partial sums of the parameters' gradients then depend on the
// number of rows alone. And rows of length 1.
#include <cmath>
#include <cstring>

#include "kernels/cpu/operators.h"

namespace spindle::cpu {

namespace {

constexpr int64_t kRows = 64;

}  // namespace

void run(CpuContext& cpu, const LayerNormForward& op) {
  int64_t channels = op.x.dim(-1), rows = op.x.numel() / channels;
  cpu.pieces(rows, kRows, [&](int64_t r0, int64_t r1, int) {
    cpu.simd.layer_norm(at(op.y.raw(), r0 * channels, op.y.dtype()), op.mean.f32() + r0,
                        op.rstd.f32() + r0, at(op.x.raw(), r0 * channels, op.x.dtype()),
                        op.gamma.f32(), op.beta.f32(), op.eps, r1 - r0, channels, is_bf16(op.x));
  });
}

void run(CpuContext& cpu, const LayerNormBackward& op) {
  int64_t channels = op.x.dim(-1), rows = op.x.numel() / channels, tasks = divide_up(rows, kRows);
  float* partial = op.dgamma || op.dbeta
                       ? reinterpret_cast<float*>(cpu.shared_scratch(2 * tasks * channels * 4))
                       : nullptr;
  if (partial) std::fill_n(partial, 2 * tasks * channels, 0.0f);
  cpu.pieces(rows, kRows, [&](int64_t r0, int64_t r1, int) {
    float* p = partial ? partial + r0 / kRows * 2 * channels : nullptr;
    cpu.simd.layer_norm_backward(
        op.dx ? at(op.dx.tensor.raw(), r0 * channels, op.dx.tensor.dtype()) : nullptr, p,
        p ? p + channels : nullptr, at(op.dy.raw(), r0 * channels, op.dy.dtype()),
        at(op.x.raw(), r0 * channels, op.x.dtype()), op.mean.f32() + r0, op.rstd.f32() + r0,
        op.gamma.f32(), r1 - r0, channels, op.dx.accumulate, is_bf16(op.x));
  });
  auto store_sum = [&](const GradSlot& slot, int64_t offset) {
    if (!slot) return;
    for (int64_t c = 0; c < channels; ++c) {
      double total = 0;
      for (int64_t t = 0; t < tasks; ++t) total += double(partial[t * 2 * channels + offset + c]);
      slot.tensor.f32()[c] = (slot.accumulate ? slot.tensor.f32()[c] : 0.0f) + float(total);
    }
  };
  store_sum(op.dgamma, 0);
  store_sum(op.dbeta, channels);
}

void run(CpuContext& cpu, const L2Normalize& op) {
  int64_t n = op.x.dim(-1), rows = op.x.numel() / n;
  for (int64_t r = 0; r < rows; ++r) {
    std::vector<float> row(static_cast<size_t>(n));
    if (is_bf16(op.x))
      cpu.simd.to_f32(row.data(), op.x.data<uint16_t>() + r * n, n);
    else
      std::memcpy(row.data(), op.x.f32() + r * n, size_t(n) * 4);
    double squares = cpu.simd.sum_of_squares(row.data(), n);
    float factor = squares > 0 ? float(1.0 / std::sqrt(squares)) : 0.0f;
    cpu.simd.scale(row.data(), row.data(), factor, n, false);
    if (is_bf16(op.y))
      cpu.simd.to_bf16(op.y.data<uint16_t>() + r * n, row.data(), n);
    else
      std::memcpy(op.y.f32() + r * n, row.data(), size_t(n) * 4);
  }
}

}  // namespace spindle::cpu
