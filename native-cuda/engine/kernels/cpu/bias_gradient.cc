#include "kernels/cpu/bias_gradient.h"

namespace spindle::cpu {

void bias_gradient(CpuContext& cpu, const GradSlot& db, const Tensor& dy) {
  int64_t n = dy.dim(-1), rows = dy.numel() / n;
  // Fixed pieces of rows, summed in order.
  constexpr int64_t kPiece = 2048;
  int64_t count = divide_up(rows, kPiece);
  float* partial = reinterpret_cast<float*>(cpu.shared_scratch(count * n * 4));
  std::fill_n(partial, count * n, 0.0f);
  cpu.pieces(rows, kPiece, [&](int64_t a, int64_t b, int) {
    cpu.simd.column_sums(partial + a / kPiece * n, at(dy.raw(), a * n, dy.dtype()), b - a, n, n,
                         is_bf16(dy));
  });
  float* out = db.tensor.f32();
  for (int64_t j = 0; j < n; ++j) {
    double total = 0;
    for (int64_t i = 0; i < count; ++i) total += double(partial[i * n + j]);
    out[j] = (db.accumulate ? out[j] : 0.0f) + float(total);
  }
}

}  // namespace spindle::cpu
