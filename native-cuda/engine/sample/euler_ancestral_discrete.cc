// Euler's method to below the next sigma, and noise up to it. Latents are x0 + sigma noise here.
#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "sample/linear_scheduler.h"
#include "sample/schedulers.h"
#include "sample/timestep_spacing.h"

namespace spindle {

namespace {
class EulerAncestralDiscrete : public LinearScheduler {
 public:
  explicit EulerAncestralDiscrete(const Config& config)
      : LinearScheduler(NoiseSchedule::from_config(config)) {
    if (schedule_.prediction_type == PredictionType::Sample)
      config.refuse("prediction_type",
                    "epsilon or v_prediction for EulerAncestralDiscreteScheduler");
    spacing_ = config.choice("timestep_spacing", {"leading", "trailing", "linspace"}, "linspace");
    offset_ = config.integer("steps_offset", 0);
    if (config.boolean("rescale_betas_zero_snr", false))
      schedule_.alphas_cumprod.back() = 0x1p-24f;  // keeps sigma finite
  }

  double init_noise_sigma() const override { return init_sigma(sigmas_, spacing_); }

  void scale_model_input(float* x, int64_t count, size_t i) const override {
    float scale = float(std::sqrt(sigmas_[i] * sigmas_[i] + 1));
    for (int64_t k = 0; k < count; ++k) x[k] /= scale;
  }

  LinearStep linear_step(size_t i) const override {
    double sigma = sigmas_[i], to = sigmas_[i + 1], q = sigma * sigma + 1;
    double up = to * std::sqrt(std::max(0.0, sigma * sigma - to * to)) / sigma,
           down = to * to / sigma, dt = down - sigma;
    LinearStep step{.input_scale = 1 / std::sqrt(q),
                    .next_x = 1,
                    .next_m = dt,
                    .next_noise = up,
                    .draws = true};
    if (schedule_.prediction_type == PredictionType::Velocity)
      step.next_x = 1 + dt / sigma * (1 - 1 / q), step.next_m = dt / std::sqrt(q);
    return step;
  }

  void add_noise(float* out,
                 const float* x,
                 const float* noise,
                 int64_t count,
                 int64_t timestep) const override {
    add_sigma_noise(schedule_.alphas_cumprod, out, x, noise, count, timestep);
  }

 private:
  void leave_out(size_t calls) override {
    sigmas_.erase(sigmas_.begin(), sigmas_.begin() + std::ptrdiff_t(calls));
  }
  ImageStart image_start() const override { return {1, sigmas_.front()}; }

  void plan(int64_t steps) override {
    timesteps_ = sigma_spaced_timesteps(spacing_, schedule_.num_train_timesteps, steps, offset_);
    std::vector<double> training = training_sigmas(schedule_.alphas_cumprod);
    sigmas_.clear();
    for (double t : timesteps_) sigmas_.push_back(double(float(interpolate(t, training))));
    sigmas_.push_back(0);
    forget();
  }

  std::string spacing_;
  int64_t offset_;
  std::vector<double> sigmas_;
};
}  // namespace

std::unique_ptr<Scheduler> make_euler_ancestral_discrete(const Config& config) {
  return std::make_unique<EulerAncestralDiscrete>(config);
}

}  // namespace spindle
