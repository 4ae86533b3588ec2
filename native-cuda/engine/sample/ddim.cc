// Denoising diffusion implicit models (arXiv 2010.02502).
#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "sample/schedulers.h"
#include "sample/timestep_spacing.h"

namespace spindle {

namespace {
class Ddim : public Scheduler {
 public:
  Ddim(const Config& config, double eta)
      : Scheduler(NoiseSchedule::from_config(config)), eta_(eta) {
    config.only("thresholding", {false});
    spacing_ = config.choice("timestep_spacing", {"leading", "trailing", "linspace"}, "leading");
    offset_ = config.integer("steps_offset", 0);
    final_alpha_ =
        config.boolean("set_alpha_to_one", true) ? 1.0 : double(schedule_.alphas_cumprod[0]);
    clip_ = config.boolean("clip_sample", true);
    clip_range_ = config.number("clip_sample_range", 1.0);
  }

  LinearStep linear_step(size_t i) const override {
    Coefficients c = coefficients(i);
    LinearStep step{.limit = clip_ ? clip_range_ : std::numeric_limits<double>::infinity(),
                    .next_value = c.to_x0,
                    .next_noise = c.sigma,
                    .draws = eta_ > 0};
    switch (
        schedule_.prediction_type) {  // v is x0, and what is left of the noise comes from x and m
      case PredictionType::Epsilon:
        step.value_x = 1 / c.sa, step.value_m = -c.sb / c.sa, step.next_m = c.to_eps;
        break;
      case PredictionType::Sample:
        step.value_m = 1, step.next_x = c.to_eps / c.sb, step.next_m = -c.to_eps * c.sa / c.sb;
        break;
      case PredictionType::Velocity:
        step.value_x = c.sa, step.value_m = -c.sb, step.next_x = c.to_eps * c.sb,
        step.next_m = c.to_eps * c.sa;
        break;
    }
    return step;
  }

 private:
  // x0 and eps of x = sa x0 + sb eps, and the next x = to_x0 x0 + to_eps eps + sigma noise.
  struct Coefficients {
    double sa, sb, to_x0, to_eps, sigma;
  };
  Coefficients coefficients(size_t i) const {
    int64_t t = int64_t(timesteps_[i]), previous = t - schedule_.num_train_timesteps / steps_;
    double a = double(schedule_.alphas_cumprod[size_t(t)]),
           a_prev =
               previous >= 0 ? double(schedule_.alphas_cumprod[size_t(previous)]) : final_alpha_;
    double variance = (1 - a_prev) / (1 - a) * (1 - a / a_prev), sigma = eta_ * std::sqrt(variance);
    return {std::sqrt(a), std::sqrt(1 - a), std::sqrt(a_prev),
            std::sqrt(std::max(0.0, 1 - a_prev - sigma * sigma)), sigma};
  }

  void plan(int64_t steps) override {
    int64_t n = schedule_.num_train_timesteps;
    timesteps_ = spacing_ == "linspace"  ? linspace_timesteps(n, steps, true)
                 : spacing_ == "leading" ? leading_timesteps(n / steps, steps, offset_)
                                         : trailing_timesteps(n, n, steps);
  }

  void leave_out(size_t) override {}
  ImageStart image_start() const override { return scheduled_start(); }

  void advance(float* x,
               const float* model_output,
               int64_t count,
               size_t i,
               const NoiseSource& noise) override {
    Coefficients c = coefficients(i);
    float sa = float(c.sa), sb = float(c.sb), to_x0 = float(c.to_x0), to_eps = float(c.to_eps);
    for (int64_t k = 0; k < count; ++k) {
      float x0 = 0, eps = 0, m = model_output[k];
      switch (schedule_.prediction_type) {
        case PredictionType::Epsilon:
          x0 = (x[k] - sb * m) / sa, eps = m;
          break;
        case PredictionType::Sample:
          x0 = m, eps = (x[k] - sa * m) / sb;
          break;
        case PredictionType::Velocity:
          x0 = sa * x[k] - sb * m, eps = sa * m + sb * x[k];
          break;
      }
      if (clip_) x0 = std::clamp(x0, -float(clip_range_), float(clip_range_));
      x[k] = to_x0 * x0 + to_eps * eps;
    }
    if (eta_ > 0) {
      std::vector<float> draw(static_cast<size_t>(count));
      noise(draw.data(), count);
      for (int64_t k = 0; k < count; ++k) x[k] += float(c.sigma) * draw[size_t(k)];
    }
  }

  double eta_, final_alpha_, clip_range_;
  bool clip_;
  std::string spacing_;
  int64_t offset_;
};
}  // namespace

std::unique_ptr<Scheduler> make_ddim(const Config& config, double eta) {
  return std::make_unique<Ddim>(config, eta);
}

}  // namespace spindle
