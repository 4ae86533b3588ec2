// Denoising diffusion probabilistic models (arXiv 2006.11239): the posterior of every step is drawn
// from.
#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "sample/linear_scheduler.h"
#include "sample/schedulers.h"
#include "sample/timestep_spacing.h"

namespace spindle {

namespace {
class Ddpm : public LinearScheduler {
 public:
  explicit Ddpm(const Config& config) : LinearScheduler(NoiseSchedule::from_config(config)) {
    config.only("thresholding", {false});
    spacing_ = config.choice("timestep_spacing", {"leading", "trailing", "linspace"}, "leading");
    offset_ = config.integer("steps_offset", 0);
    clip_ = config.boolean("clip_sample", true);
    clip_range_ = config.number("clip_sample_range", 1.0);
    // The learned ones need a model of twice the channels, and of fixed_large_log the library takes
    // the root of a negative number. null is what other classes write, and is as fixed_small.
    if (config.has("variance_type"))
      large_ = config.choice("variance_type", {"fixed_small", "fixed_small_log", "fixed_large"}) ==
               "fixed_large";
    else
      config.ignore("variance_type");
  }

  // In float32, in the library's order: 1 minus nearly 1 has few digits, and they should be its.
  LinearStep linear_step(size_t i) const override {
    float a = schedule_.alphas_cumprod[size_t(timesteps_[i])],
          a_prev = i + 1 < timesteps_.size() ? schedule_.alphas_cumprod[size_t(timesteps_[i + 1])]
                                             : 1.0f;
    float b = 1 - a, b_prev = 1 - a_prev, alpha = a / a_prev, beta = 1 - alpha;
    float small = std::max(b_prev / b * beta, 1e-20f);
    DataPrediction v =
        data_prediction(schedule_.prediction_type, double(std::sqrt(a)), double(std::sqrt(b)));
    bool draws = timesteps_[i] > 0;
    return {.value_x = v.of_x,
            .value_m = v.of_m,
            .limit = clip_ ? clip_range_ : std::numeric_limits<double>::infinity(),
            .next_x = double(std::sqrt(alpha) * b_prev / b),
            .next_value = double(std::sqrt(a_prev) * beta / b),
            .next_noise = draws ? double(std::sqrt(large_ ? beta : small)) : 0,
            .draws = draws};
  }

 private:
  void leave_out(size_t) override {}
  ImageStart image_start() const override { return scheduled_start(); }

  void plan(int64_t steps) override {
    int64_t n = schedule_.num_train_timesteps;
    timesteps_ = spacing_ == "linspace"  ? linspace_timesteps(n, steps, true)
                 : spacing_ == "leading" ? leading_timesteps(n / steps, steps, offset_)
                                         : trailing_timesteps(n, n, steps);
    forget();
  }

  bool clip_, large_ = false;
  double clip_range_;
  std::string spacing_;
  int64_t offset_;
};
}  // namespace

std::unique_ptr<Scheduler> make_ddpm(const Config& config) {
  return std::make_unique<Ddpm>(config);
}

}  // namespace spindle
