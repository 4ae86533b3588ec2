// DPM-Solver++ (arXiv 2211.01095), data prediction, order 1 and 2; of its differential equation, or
// of the stochastic one (sde-dpmsolver++).
#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "sample/schedulers.h"
#include "sample/timestep_spacing.h"

namespace spindle {

namespace {
class DpmSolverMultistep : public Scheduler {
 public:
  explicit DpmSolverMultistep(const Config& config)
      : Scheduler(NoiseSchedule::from_config(config)) {
    config.only("thresholding", {false});
    config.only("algorithm_type", {"dpmsolver++", "sde-dpmsolver++"});
    stochastic_ = config.string("algorithm_type", "dpmsolver++") == "sde-dpmsolver++";
    for (const char* key :
         {"use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas", "use_dynamic_shifting"})
      config.only(key, {false});
    config.only("variance_type", {});
    double clipped = config.number("lambda_min_clipped", -HUGE_VAL);
    if (clipped != -HUGE_VAL)
      config.refuse("lambda_min_clipped", "-Infinity (other values are not supported)");
    order_ = config.integer("solver_order", 2);
    if (order_ < 1 || order_ > 2) config.refuse("solver_order", "1 or 2");
    heun_ = config.choice("solver_type", {"midpoint", "heun"}, "midpoint") == "heun";
    lower_order_final_ = config.boolean("lower_order_final", true);
    euler_at_final_ = config.boolean("euler_at_final", false);
    karras_ = config.boolean("use_karras_sigmas", false);
    final_zero_ = config.choice("final_sigmas_type", {"zero", "sigma_min"}, "zero") == "zero";
    spacing_ = config.choice("timestep_spacing", {"leading", "trailing", "linspace"}, "linspace");
    offset_ = config.integer("steps_offset", 0);
    rounds_karras_timesteps_ = config.string("beta_schedule", "linear") != "squaredcos_cap_v2";
    if (config.boolean("rescale_betas_zero_snr", false))
      schedule_.alphas_cumprod.back() = 0x1p-24f;  // keeps sigma finite
  }

  // diffusers finds the timestep's position in its falling list and takes the sigma there from a
  // rising one: as if at N - 1 - t.
  void add_noise(float* out,
                 const float* x,
                 const float* noise,
                 int64_t count,
                 int64_t timestep) const override {
    schedule_.add_noise(out, x, noise, count, schedule_.num_train_timesteps - 1 - timestep);
  }

  LinearStep linear_step(size_t i) const override {
    Coefficients c = coefficients(i);
    LinearStep step{.next_x = c.keep,
                    .next_value = c.gain + c.slope,
                    .next_h1 = -c.slope,
                    .next_noise = c.noise,
                    .push = true,
                    .draws = stochastic_};  // v is x0
    switch (schedule_.prediction_type) {
      case PredictionType::Epsilon:
        step.value_x = 1 / c.a, step.value_m = -c.b / c.a;
        break;
      case PredictionType::Sample:
        step.value_m = 1;
        break;
      case PredictionType::Velocity:
        step.value_x = c.a, step.value_m = -c.b;
        break;
    }
    return step;
  }

 private:
  void plan(int64_t steps) override {
    timesteps_ = multistep_timesteps(spacing_, schedule_.num_train_timesteps, steps, offset_);
    std::vector<double> training = training_sigmas(schedule_.alphas_cumprod);
    if (karras_) {
      sigmas_ = karras_sigmas(training.back(), training.front(), steps);
      timesteps_.clear();
      for (double sigma : sigmas_) {
        double t = sigma_to_timestep(sigma, training);
        timesteps_.push_back(rounds_karras_timesteps_ ? std::nearbyint(t) : std::trunc(t));
      }
    } else {
      sigmas_.clear();
      for (double t : timesteps_) sigmas_.push_back(interpolate(t, training));
    }
    sigmas_.push_back(final_zero_ ? 0 : training.front());
    for (double& sigma : sigmas_) sigma = double(float(sigma));
    previous_x0_.clear();
  }

  // alpha and sigma of x = alpha x0 + sigma noise
  static double alpha(double sigma) { return 1 / std::sqrt(sigma * sigma + 1); }
  static double lambda(double sigma) { return -std::log(sigma); }  // log(alpha) - log(alpha sigma)

  // x = a x0 + b noise, and the next x = keep x + gain x0 + slope (x0 - the last step's x0)
  // + noise z.
  struct Coefficients {
    double a, b, keep, gain, slope, noise;
  };
  Coefficients coefficients(size_t i) const {
    double s = sigmas_[i], next = sigmas_[i + 1], a = alpha(s), b = s * a, a_next = alpha(next);
    double h = lambda(next) - lambda(s);
    // The stochastic equation goes twice as far towards x0, and back by noise.
    double way = stochastic_ ? 2 * h : h, shrink = 1 - std::exp(-way);
    Coefficients c{a, b, next * a_next / b, a_next * shrink, 0, 0};
    if (stochastic_) {
      c.keep *= std::exp(-h);
      c.noise = next * a_next * std::sqrt(std::max(0.0, shrink));
    }
    bool first_order_end =
        i + 1 == timesteps_.size() &&
        (euler_at_final_ || (lower_order_final_ && left_out_ + timesteps_.size() < 15) ||
         final_zero_);
    if (order_ == 1 || i == 0 || first_order_end || h == 0)
      return c;  // Karras' last sigma may be sigma_min: no way to go, and 0 / 0 for Heun
    double r = (lambda(s) - lambda(sigmas_[i - 1])) / h;
    c.slope = (heun_ ? a_next * (1 - shrink / way) : 0.5 * a_next * shrink) / r;
    return c;
  }

  void leave_out(size_t calls) override {
    sigmas_.erase(sigmas_.begin(), sigmas_.begin() + std::ptrdiff_t(calls));
  }
  ImageStart image_start() const override {
    double a = alpha(sigmas_.front());
    return {a, sigmas_.front() * a};
  }

  void advance(float* x,
               const float* model_output,
               int64_t size,
               size_t i,
               const NoiseSource& noise) override {
    size_t count = size_t(size);
    Coefficients c = coefficients(i);
    float a = float(c.a), b = float(c.b), keep = float(c.keep), gain = float(c.gain),
          slope = float(c.slope);
    std::vector<float> x0(count);
    for (size_t k = 0; k < count; ++k) {
      switch (schedule_.prediction_type) {
        case PredictionType::Epsilon:
          x0[k] = (x[k] - b * model_output[k]) / a;
          break;
        case PredictionType::Sample:
          x0[k] = model_output[k];
          break;
        case PredictionType::Velocity:
          x0[k] = a * x[k] - b * model_output[k];
          break;
      }
    }
    if (slope == 0) {
      for (size_t k = 0; k < count; ++k) x[k] = keep * x[k] + gain * x0[k];
    } else {
      for (size_t k = 0; k < count; ++k)
        x[k] = keep * x[k] + gain * x0[k] + slope * (x0[k] - previous_x0_[k]);
    }
    previous_x0_ = std::move(x0);
    if (!stochastic_) return;
    std::vector<float> draw(count);
    noise(draw.data(), size);
    for (size_t k = 0; k < count; ++k) x[k] += float(c.noise) * draw[k];
  }

  int64_t order_, offset_;
  bool stochastic_, heun_, lower_order_final_, euler_at_final_, karras_, final_zero_,
      rounds_karras_timesteps_;
  std::string spacing_;
  std::vector<double> sigmas_;
  std::vector<float> previous_x0_;
};
}  // namespace

std::unique_ptr<Scheduler> make_dpm_solver_multistep(const Config& config) {
  return std::make_unique<DpmSolverMultistep>(config);
}

}  // namespace spindle
