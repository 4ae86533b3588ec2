#include "sample/linear_scheduler.h"

#include <algorithm>

namespace spindle {

void LinearScheduler::forget() {
  for (std::vector<float>* kept : {&start_, &h1_, &h2_, &h3_, &sum_}) kept->clear();
}

void LinearScheduler::advance(float* x,
                              const float* model_output,
                              int64_t size,
                              size_t i,
                              const NoiseSource& noise) {
  const LinearStep s = linear_step(i);
  size_t count = size_t(size);
  std::vector<float> draw;
  if (s.draws) {
    draw.resize(count);
    noise(draw.data(), size);
  }
  for (std::vector<float>* kept : {&start_, &h1_, &h2_, &h3_, &sum_}) kept->resize(count);
  // A coefficient of 0 keeps what it is of out altogether, finite or not.
  auto times = [](double coefficient, float value) {
    return coefficient == 0 ? 0.0 : coefficient * double(value);
  };
  for (size_t k = 0; k < count; ++k) {
    float now = x[k], m = model_output[k];
    double data = times(s.value_x, now) + times(s.value_m, m);
    float v = float(std::min(std::max(data, -s.limit), s.limit));
    double next = times(s.next_x, now) + times(s.next_start, start_[k]) + times(s.next_m, m) +
                  times(s.next_value, v) + times(s.next_h1, h1_[k]) + times(s.next_h2, h2_[k]) +
                  times(s.next_h3, h3_[k]) + times(s.next_sum, sum_[k]);
    if (s.draws) next += times(s.next_noise, draw[k]);
    x[k] = float(next);
    sum_[k] = float(times(s.sum_keep, sum_[k]) + times(s.sum_m, m));
    if (s.store) start_[k] = now;
    if (!s.push) continue;
    h3_[k] = h2_[k];
    h2_[k] = h1_[k];
    h1_[k] = v;
  }
}

DataPrediction data_prediction(PredictionType type, double signal, double noise) {
  switch (type) {
    case PredictionType::Epsilon:
      return {1 / signal, -noise / signal};
    case PredictionType::Sample:
      return {0, 1};
    case PredictionType::Velocity:
      return {signal, -noise};
  }
  return {};
}

}  // namespace spindle
