// Trainings of the tiny U-Net on made-up batches, for tests, and how far apart two of them end.
#pragma once
#include <cmath>

#include "tiny_models.h"
#include "train/trainer.h"

namespace tiny {

inline std::unique_ptr<Trainer> trainer(Device& device, const TrainerOptions& o) {
  auto unet = tiny::unet(device, {.compute = o.compute, .trainable = true});
  auto opponent = is_spin(o.objective.objective) ? copy_unet(*unet) : nullptr;
  return std::make_unique<Trainer>(std::move(unet), std::move(opponent), o);
}

// Pairs [offset, offset + pairs) of a step of `whole`. The values are those of `first` and the two
// numbers after it.
inline TrainBatch batch(Device& device,
                        const TrainerOptions& o,
                        int64_t step,
                        int64_t offset,
                        int64_t pairs,
                        int64_t whole,
                        uint32_t first = 1) {
  TrainBatch b;
  b.step = step;
  b.offset = offset;
  b.step_batch_size = whole;
  auto rows = [&](const Shape& shape, uint32_t number) {
    std::vector<int64_t> dims = shape.dims();
    int64_t size = shape.numel() / dims[0];
    dims[0] = pairs;
    return tiny::random(device, shape, number).slice(offset * size, Shape(dims));
  };
  b.real = rows({whole, 4, 8, 8}, first);
  if (is_spin(o.objective.objective)) b.generated = rows({whole, 4, 8, 8}, first + 1);
  b.text = rows({whole, 5, 12}, first + 2);
  return b;
}

// |a - b| / |b|
inline double distance(const std::vector<float>& a, const std::vector<float>& b) {
  double difference = 0, norm = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    difference += std::pow(double(a[i]) - double(b[i]), 2);
    norm += std::pow(double(b[i]), 2);
  }
  return std::sqrt(difference / norm);
}

}  // namespace tiny
