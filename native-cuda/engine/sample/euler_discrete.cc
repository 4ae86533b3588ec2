// Euler's method on dx/dsigma (arXiv 2206.00364, algorithm 2 without churn). Latents are x0 + sigma
// noise here.
#include <cmath>

#include "core/error.h"
#include "sample/schedulers.h"
#include "sample/timestep_spacing.h"

namespace spindle {

namespace {
class EulerDiscrete : public Scheduler {
 public:
  explicit EulerDiscrete(const Config& config) : Scheduler(NoiseSchedule::from_config(config)) {
    if (schedule_.prediction_type == PredictionType::Sample)
      config.refuse("prediction_type", "epsilon or v_prediction for EulerDiscreteScheduler");
    config.only("interpolation_type", {"linear"});
    for (const char* key : {"use_exponential_sigmas", "use_beta_sigmas"}) config.only(key, {false});
    for (const char* key : {"sigma_min", "sigma_max"}) config.only(key, {});
    karras_ = config.boolean("use_karras_sigmas", false);
    final_zero_ = config.choice("final_sigmas_type", {"zero", "sigma_min"}, "zero") == "zero";
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
    double sigma = sigmas_[i], dt = sigmas_[i + 1] - sigma, q = sigma * sigma + 1;
    LinearStep step{.input_scale = 1 / std::sqrt(q), .next_x = 1, .next_m = dt};
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
  void plan(int64_t steps) override {
    timesteps_ = sigma_spaced_timesteps(spacing_, schedule_.num_train_timesteps, steps, offset_);
    std::vector<double> training = training_sigmas(schedule_.alphas_cumprod);
    sigmas_.clear();
    for (double t : timesteps_) sigmas_.push_back(interpolate(t, training));
    if (karras_) {
      sigmas_ = karras_sigmas(sigmas_.front(), sigmas_.back(), steps);
      for (size_t i = 0; i < sigmas_.size(); ++i)
        timesteps_[i] = double(float(sigma_to_timestep(sigmas_[i], training)));
    }
    sigmas_.push_back(final_zero_ ? 0 : training.front());
    for (double& sigma : sigmas_) sigma = double(float(sigma));
  }

  void leave_out(size_t calls) override {
    sigmas_.erase(sigmas_.begin(), sigmas_.begin() + std::ptrdiff_t(calls));
  }
  ImageStart image_start() const override { return {1, sigmas_.front()}; }

  void advance(float* x,
               const float* model_output,
               int64_t count,
               size_t i,
               const NoiseSource&) override {
    double sigma = sigmas_[i], dt = sigmas_[i + 1] - sigma, q = sigma * sigma + 1;
    if (schedule_.prediction_type ==
        PredictionType::Epsilon) {  // the derivative is the noise itself
      for (int64_t k = 0; k < count; ++k) x[k] += float(dt) * model_output[k];
      return;
    }
    for (int64_t k = 0; k < count; ++k) {
      double x0 = -sigma / std::sqrt(q) * double(model_output[k]) + double(x[k]) / q;
      x[k] = float(double(x[k]) + dt * (double(x[k]) - x0) / sigma);
    }
  }

  bool karras_, final_zero_;
  std::string spacing_;
  int64_t offset_;
  std::vector<double> sigmas_;
};
}  // namespace

std::unique_ptr<Scheduler> make_euler_discrete(const Config& config) {
  return std::make_unique<EulerDiscrete>(config);
}

}  // namespace spindle
