// Heun's method on dx/dsigma (arXiv 2206.00364, algorithm 1 without churn): a step of Euler's, a
// second call of the model where it ends, and the mean of the two slopes. The last step, to sigma
// 0, has one call. Latents are x0 + sigma noise here.
#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "sample/linear_scheduler.h"
#include "sample/schedulers.h"
#include "sample/timestep_spacing.h"

namespace spindle {

namespace {
class HeunDiscrete : public LinearScheduler {
 public:
  explicit HeunDiscrete(const Config& config)
      : LinearScheduler(NoiseSchedule::from_config(config)) {
    for (const char* key : {"use_exponential_sigmas", "use_beta_sigmas"}) config.only(key, {false});
    // diffusers' Heun has no such option; a config that sets it was meant for another class.
    config.only("rescale_betas_zero_snr", {false});
    karras_ = config.boolean("use_karras_sigmas", false);
    clip_ = config.boolean("clip_sample", false);
    clip_range_ = config.number("clip_sample_range", 1.0);
    spacing_ = config.choice("timestep_spacing", {"leading", "trailing", "linspace"}, "linspace");
    offset_ = config.integer("steps_offset", 0);
  }

  double init_noise_sigma() const override { return init_sigma(sigmas_, spacing_); }

  void scale_model_input(float* x, int64_t count, size_t i) const override {
    double sigma = sigma_of(i);
    float scale = float(std::sqrt(sigma * sigma + 1));
    for (int64_t k = 0; k < count; ++k) x[k] /= scale;
  }

  LinearStep linear_step(size_t i) const override {
    double sigma = sigma_of(i), q = sigma * sigma + 1;
    LinearStep step{.input_scale = 1 / std::sqrt(q),
                    .limit = clip_ ? clip_range_ : std::numeric_limits<double>::infinity()};
    switch (schedule_.prediction_type) {  // v is x0
      case PredictionType::Epsilon:
        step.value_x = 1, step.value_m = -sigma;
        break;
      case PredictionType::Sample:
        step.value_m = 1;
        break;
      case PredictionType::Velocity:
        step.value_x = 1 / q, step.value_m = -sigma / std::sqrt(q);
        break;
    }
    size_t begin = i / 2 * 2;  // the call that the step began with
    if (i == begin) {
      double slope = (sigma_of(i + 1) - sigma) / sigma;
      step.next_x = 1 + slope, step.next_value = -slope;
      step.store = step.push = true;
      return step;
    }
    // The first slope is (start - h1) / sigma there, the second one (x - v) / sigma here.
    double from = sigma_of(begin), half = (sigma - from) / 2;
    step.next_start = 1 + half / from, step.next_h1 = -half / from;
    step.next_x = half / sigma, step.next_value = -half / sigma;
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
  // Where call i of the model is: the first one at the first sigma, then two at each.
  double sigma_of(size_t i) const { return sigmas_[(i + 1) / 2]; }

  size_t order() const override { return 2; }
  void leave_out(size_t calls) override {
    sigmas_.erase(sigmas_.begin(), sigmas_.begin() + std::ptrdiff_t(calls / 2));
  }
  ImageStart image_start() const override { return {1, sigmas_.front()}; }

  void plan(int64_t steps) override {
    std::vector<double> training = training_sigmas(schedule_.alphas_cumprod),
                        t = sigma_spaced_timesteps(spacing_, schedule_.num_train_timesteps, steps,
                                                   offset_);
    sigmas_.clear();
    for (double timestep : t) sigmas_.push_back(interpolate(timestep, training));
    if (karras_) {
      sigmas_ = karras_sigmas(sigmas_.front(), sigmas_.back(), steps);
      t.clear();
      for (double sigma : sigmas_) t.push_back(double(float(sigma_to_timestep(sigma, training))));
    }
    for (double& sigma : sigmas_) sigma = double(float(sigma));
    sigmas_.push_back(0);
    for (size_t i = 0; i < 2 * t.size() - 1; ++i) timesteps_.push_back(t[(i + 1) / 2]);
    forget();
  }

  bool karras_, clip_;
  double clip_range_;
  std::string spacing_;
  int64_t offset_;
  std::vector<double> sigmas_;  // one more than steps
};
}  // namespace

std::unique_ptr<Scheduler> make_heun_discrete(const Config& config) {
  return std::make_unique<HeunDiscrete>(config);
}

}  // namespace spindle
