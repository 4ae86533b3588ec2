#include "train/timestep_weight.h"

#include <cmath>
#include <numeric>

#include "core/error.h"

namespace spindle {

namespace {

constexpr double kMinSnrGamma = 5;

// h_t^2 times what makes the error of the prediction that of the noise. With sqrt(a) = cos(phi),
// h_t sqrt(a_t) is the sine of the angle between a timestep and the one before: finite also where
// a_t is 0.
double paper_weight(double before, double alpha, Predicts predicts) {
  double step = std::sqrt((1 - before) * alpha) - std::sqrt(before * (1 - alpha));
  switch (predicts) {
    case Predicts::Noise:
      require(alpha > 0,
              "[train] timestep_weight: expected a noise schedule with signal at every timestep "
              "for a model that predicts noise, got one that ends in noise alone; take constant "
              "or min_snr");
      return step * step / alpha;
    case Predicts::Velocity:
      return step * step;
    case Predicts::Image:
      return step * step / (1 - alpha);
  }
  return 1;
}

}  // namespace

Predicts predicts(const NoiseSchedule& schedule) {
  switch (schedule.prediction_type) {
    case PredictionType::Epsilon:
      return Predicts::Noise;
    case PredictionType::Velocity:
      return Predicts::Velocity;
    case PredictionType::Sample:
      return Predicts::Image;
  }
  return Predicts::Noise;
}

std::vector<double> timestep_weights(const NoiseSchedule& schedule, TimestepWeight weight) {
  if (weight == TimestepWeight::Constant) return {};
  std::vector<double> weights;
  double before = 1;
  for (float of_timestep : schedule.alphas_cumprod) {
    double alpha = double(of_timestep);
    weights.push_back(weight == TimestepWeight::Paper
                          ? paper_weight(before, alpha, predicts(schedule))
                          : min_snr_weight(alpha, kMinSnrGamma, predicts(schedule)));
    before = alpha;
  }
  double mean = std::accumulate(weights.begin(), weights.end(), 0.0) / double(weights.size());
  for (double& each : weights) each /= mean;
  return weights;
}

}  // namespace spindle
