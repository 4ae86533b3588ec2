// The forward process: how much of image and noise there is at each timestep, as diffusers computes
// it (float32).
#pragma once
#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "io/config.h"

namespace spindle {

enum class PredictionType : uint8_t { Epsilon, Velocity, Sample };

struct NoiseSchedule {
  int64_t num_train_timesteps = 0;
  std::vector<float> alphas_cumprod;
  PredictionType prediction_type = PredictionType::Epsilon;

  // Reads the beta and prediction keys of a scheduler_config.json.
  static NoiseSchedule from_config(const Config& config);
  // For callers that need nothing else of the scheduler (training).
  static NoiseSchedule parse(const std::string& scheduler_config);

  // add_noise and target as one: noisy = c[0] x + c[1] noise, target = c[2] x + c[3] noise, the
  // same bytes.
  std::array<float, 4> coefficients(int64_t timestep) const;

  // sqrt(a_t) x + sqrt(1 - a_t) noise
  void add_noise(float* out,
                 const float* x,
                 const float* noise,
                 int64_t count,
                 int64_t timestep) const;
  // What the model should predict: noise, sqrt(a_t) noise - sqrt(1 - a_t) x, or x.
  void target(float* out,
              const float* x,
              const float* noise,
              int64_t count,
              int64_t timestep) const;
};

}  // namespace spindle
