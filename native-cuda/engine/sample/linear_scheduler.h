// Schedulers that are nothing but their linear steps: the host takes the same sums of products that
// a device takes from its table.
#pragma once
#include "sample/scheduler.h"

namespace spindle {

class LinearScheduler : public Scheduler {
 protected:
  using Scheduler::Scheduler;
  // Every plan() ends with it: nothing is left of the images before.
  void forget();
  void advance(float* x,
               const float* model_output,
               int64_t count,
               size_t i,
               const NoiseSource& noise) final;

 private:
  std::vector<float> start_, h1_, h2_, h3_, sum_;  // as many values as the latents, once written
};

// v = x.of_x x + x.of_m m is the x0 that output m says, where x = signal x0 + noise eps.
struct DataPrediction {
  double of_x = 0, of_m = 0;
};
DataPrediction data_prediction(PredictionType type, double signal, double noise);

}  // namespace spindle
