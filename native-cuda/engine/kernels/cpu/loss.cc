// Mean squared errors per image, summed in double, and their gradient.
#include "kernels/cpu/operators.h"

namespace spindle::cpu {

void run(CpuContext& cpu, const MsePerImage& op) {
  int64_t batch = op.prediction.dim(0), n = op.prediction.numel() / batch;
  cpu.threads.run(batch, [&](int64_t i, int) {
    double total =
        cpu.simd.sum_of_square_differences(at(op.prediction.raw(), i * n, op.prediction.dtype()),
                                           at(op.target.raw(), i * n, op.target.dtype()), n,
                                           is_bf16(op.prediction), is_bf16(op.target));
    op.errors.data<double>()[i] = total / double(n);
  });
}

void run(CpuContext& cpu, const MseBackward& op) {
  int64_t batch = op.prediction.dim(0), n = op.prediction.numel() / batch;
  auto read = [](const Tensor& t, int64_t i) {
    return is_bf16(t) ? spindle::to_float(t.data<bf16>()[i]) : t.f32()[i];
  };
  cpu.threads.run(batch, [&](int64_t i, int) {
    float factor = float(double(op.weights.f32()[i]) * 2.0 / double(n));
    for (int64_t j = i * n; j < (i + 1) * n; ++j) {
      float v = factor * (read(op.prediction, j) - read(op.target, j));
      if (is_bf16(op.dprediction))
        op.dprediction.data<bf16>()[j] = spindle::to_bf16(v);
      else
        op.dprediction.f32()[j] = v;
    }
  });
}

}  // namespace spindle::cpu
