#include "kernels/cpu/cpu_kernels.h"

namespace spindle::cpu {

void CpuKernels::mse_per_image(Tensor& errors, const Tensor& prediction, const Tensor& target) {
  int64_t batch = prediction.dim(0), n = prediction.numel() / batch;
  threads_.run(batch, [&](int64_t i, int) {
    double total = simd_.sum_of_square_differences(at(prediction.raw(), i * n, prediction.dtype()),
                                                   at(target.raw(), i * n, target.dtype()), n,
                                                   is_bf16(prediction), is_bf16(target));
    errors.data<double>()[i] = total / double(n);
  });
}

void CpuKernels::mse_backward(Tensor& dprediction,
                              const Tensor& prediction,
                              const Tensor& target,
                              const Tensor& weights) {
  int64_t batch = prediction.dim(0), n = prediction.numel() / batch;
  auto read = [](const Tensor& t, int64_t i) {
    return is_bf16(t) ? spindle::to_float(t.data<bf16>()[i]) : t.f32()[i];
  };
  threads_.run(batch, [&](int64_t i, int) {
    float factor = float(double(weights.f32()[i]) * 2.0 / double(n));
    for (int64_t j = i * n; j < (i + 1) * n; ++j) {
      float v = factor * (read(prediction, j) - read(target, j));
      if (is_bf16(dprediction))
        dprediction.data<bf16>()[j] = spindle::to_bf16(v);
      else
        dprediction.f32()[j] = v;
    }
  });
}

}  // namespace spindle::cpu
