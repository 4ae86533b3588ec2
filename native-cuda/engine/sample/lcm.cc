// Latent consistency models (arXiv 2310.04378): every step goes all the way to the data, and back
// by fresh noise.
#include <cmath>

#include "core/error.h"
#include "sample/linear_scheduler.h"
#include "sample/schedulers.h"

namespace spindle {

namespace {
class Lcm : public LinearScheduler {
 public:
  explicit Lcm(const Config& config) : LinearScheduler(NoiseSchedule::from_config(config)) {
    config.only("thresholding", {false});
    original_steps_ = config.integer("original_inference_steps", 50);
    if (original_steps_ < 1 || original_steps_ > schedule_.num_train_timesteps)
      config.refuse("original_inference_steps",
                    cat("1 to num_train_timesteps = ", schedule_.num_train_timesteps));
    timestep_scaling_ = config.number("timestep_scaling", 10.0);
    clip_ = config.boolean("clip_sample", false);
    clip_range_ = config.number("clip_sample_range", 1.0);
  }

  LinearStep linear_step(size_t i) const override {
    auto alpha = [&](size_t k) { return schedule_.alphas_cumprod[size_t(timesteps_[k])]; };
    float a = alpha(i);
    DataPrediction v =
        data_prediction(schedule_.prediction_type, double(std::sqrt(a)), double(std::sqrt(1 - a)));
    // The paper's boundary condition, with data of standard deviation 0.5.
    double scaled = timesteps_[i] * timestep_scaling_, q = scaled * scaled + 0.25;
    double skip = 0.25 / q, out = scaled / std::sqrt(q);
    bool last = i + 1 == timesteps_.size();
    double signal = last ? 1 : double(std::sqrt(alpha(i + 1))),
           noise = last ? 0 : double(std::sqrt(1 - alpha(i + 1)));
    return {.value_x = v.of_x,
            .value_m = v.of_m,
            .limit = clip_ ? clip_range_ : std::numeric_limits<double>::infinity(),
            .next_x = signal * skip,
            .next_value = signal * out,
            .next_noise = noise,
            .draws = !last};
  }

 private:
  // Evenly out of the timesteps that the model was distilled on.
  void leave_out(size_t) override {}
  ImageStart image_start() const override { return scheduled_start(); }

  void plan(int64_t steps) override {
    require(steps <= original_steps_,
            "[scheduler] steps: expected at most original_inference_steps = ", original_steps_,
            " for LCMScheduler, got ", steps);
    int64_t skip = schedule_.num_train_timesteps / original_steps_;
    // numpy.linspace without its end, rounded down
    double step = double(original_steps_) / double(steps);
    for (int64_t i = 0; i < steps; ++i) {
      int64_t falling = int64_t(std::floor(double(i) * step));
      timesteps_.push_back(double((original_steps_ - falling) * skip - 1));
    }
    forget();
  }

  int64_t original_steps_;
  double timestep_scaling_, clip_range_;
  bool clip_;
};
}  // namespace

std::unique_ptr<Scheduler> make_lcm(const Config& config) { return std::make_unique<Lcm>(config); }

}  // namespace spindle
