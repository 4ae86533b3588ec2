// Mean squared errors per image and their gradient.
#include "kernels/reference/reference_kernels.h"
#include "kernels/reference/values.h"

namespace spindle::reference {

// prediction, target (B,...), errors (B)
void ReferenceKernels::run(const MsePerImage& op) {
  int64_t batch = op.errors.numel(), n = op.prediction.numel() / batch;
  Values p = load(op.prediction), t = load(op.target), sums(size_t(batch), 0.0);
  for (int64_t b = 0; b < batch; ++b) {
    for (int64_t i = 0; i < n; ++i) {
      double difference = at(p, b, i, n) - at(t, b, i, n);
      sums[size_t(b)] += difference * difference;
    }
    sums[size_t(b)] /= double(n);
  }
  store(op.errors, sums);
}

void ReferenceKernels::run(const MseBackward& op) {
  int64_t batch = op.weights.numel(), n = op.prediction.numel() / batch;
  Values p = load(op.prediction), t = load(op.target), w = load(op.weights), d(p.size());
  for (int64_t b = 0; b < batch; ++b)
    for (int64_t i = 0; i < n; ++i)
      at(d, b, i, n) = w[size_t(b)] * 2 / double(n) * (at(p, b, i, n) - at(t, b, i, n));
  store(op.dprediction, d);
}

}  // namespace spindle::reference
