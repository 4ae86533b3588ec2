#include "kernels/reference/reference_kernels.h"
#include "kernels/reference/values.h"

namespace spindle::reference {

// prediction, target (B,...), errors (B)
void ReferenceKernels::mse_per_image(Tensor& errors,
                                     const Tensor& prediction,
                                     const Tensor& target) {
  int64_t batch = errors.numel(), n = prediction.numel() / batch;
  Values p = load(prediction), t = load(target), sums(size_t(batch), 0.0);
  for (int64_t b = 0; b < batch; ++b) {
    for (int64_t i = 0; i < n; ++i) {
      double difference = at(p, b, i, n) - at(t, b, i, n);
      sums[size_t(b)] += difference * difference;
    }
    sums[size_t(b)] /= double(n);
  }
  store(errors, sums);
}

void ReferenceKernels::mse_backward(Tensor& dprediction,
                                    const Tensor& prediction,
                                    const Tensor& target,
                                    const Tensor& weights) {
  int64_t batch = weights.numel(), n = prediction.numel() / batch;
  Values p = load(prediction), t = load(target), w = load(weights), d(p.size());
  for (int64_t b = 0; b < batch; ++b)
    for (int64_t i = 0; i < n; ++i)
      at(d, b, i, n) = w[size_t(b)] * 2 / double(n) * (at(p, b, i, n) - at(t, b, i, n));
  store(dprediction, d);
}

}  // namespace spindle::reference
