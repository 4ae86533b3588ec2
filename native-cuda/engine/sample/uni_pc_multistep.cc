// UniPC (arXiv 2302.04867), data prediction: a predictor of up to order 3, and with the next call's
// output a corrector of one order more, which needs no call of its own.
#include <algorithm>
#include <array>
#include <cmath>

#include "core/error.h"
#include "sample/linear_scheduler.h"
#include "sample/schedulers.h"
#include "sample/timestep_spacing.h"

namespace spindle {

namespace {
constexpr int64_t kMostOrder = 3;

// a x = b by Gauss with pivots.
std::vector<double> solve(std::vector<std::vector<double>> a, std::vector<double> b) {
  size_t n = b.size();
  for (size_t c = 0; c < n; ++c) {
    size_t pivot = c;
    for (size_t r = c + 1; r < n; ++r)
      if (std::abs(a[r][c]) > std::abs(a[pivot][c])) pivot = r;
    std::swap(a[c], a[pivot]);
    std::swap(b[c], b[pivot]);
    for (size_t r = c + 1; r < n; ++r) {
      double factor = a[r][c] / a[c][c];
      for (size_t k = c; k < n; ++k) a[r][k] -= factor * a[c][k];
      b[r] -= factor * b[c];
    }
  }
  for (size_t c = n; c-- > 0;) {
    for (size_t k = c + 1; k < n; ++k) b[c] -= a[c][k] * b[k];
    b[c] /= a[c][c];
  }
  return b;
}

class UniPcMultistep : public LinearScheduler {
 public:
  explicit UniPcMultistep(const Config& config)
      : LinearScheduler(NoiseSchedule::from_config(config)) {
    for (const char* key :
         {"thresholding", "use_exponential_sigmas", "use_beta_sigmas", "use_dynamic_shifting"})
      config.only(key, {false});
    config.only("predict_x0", {true});
    for (const char* key : {"solver_p", "sigma_min", "sigma_max", "shift_terminal"})
      config.only(key, {});
    order_ = config.integer("solver_order", 2);
    if (order_ < 1 || order_ > kMostOrder) config.refuse("solver_order", "1, 2 or 3");
    // Other classes' kinds become bh2, as in the library.
    bh1_ =
        config.choice("solver_type", {"bh1", "bh2", "midpoint", "heun", "logrho"}, "bh2") == "bh1";
    if (config.has("disable_corrector")) uncorrected_ = config.integers("disable_corrector");
    config.ignore("disable_corrector");
    final_zero_ = config.choice("final_sigmas_type", {"zero", "sigma_min"}, "zero") == "zero";
    lower_order_final_ = config.boolean("lower_order_final", true);
    if (!lower_order_final_ && final_zero_ && order_ > 1)
      config.refuse("lower_order_final",
                    "true where final_sigmas_type is \"zero\" (a higher order divides by an "
                    "infinite step)");
    karras_ = config.boolean("use_karras_sigmas", false);
    spacing_ = config.choice("timestep_spacing", {"leading", "trailing", "linspace"}, "linspace");
    offset_ = config.integer("steps_offset", 0);
    if (config.boolean("rescale_betas_zero_snr", false))
      schedule_.alphas_cumprod.back() = 0x1p-24f;  // keeps sigma finite
  }

  // As DPM-Solver's: the library copies it.
  void add_noise(float* out,
                 const float* x,
                 const float* noise,
                 int64_t count,
                 int64_t timestep) const override {
    schedule_.add_noise(out, x, noise, count, schedule_.num_train_timesteps - 1 - timestep);
  }

  LinearStep linear_step(size_t i) const override {
    double a = alpha(sigmas_[i]), b = sigmas_[i] * a;
    DataPrediction v = data_prediction(schedule_.prediction_type, a, b);
    // The corrected sample is x, less what the predictor took from the history, plus what the
    // corrector takes: both begin with the same step of order 1.
    Weights here = {};  // of v, h1, h2, h3
    if (i > 0 && !disabled(i - 1)) {
      Weights predicted = predictor(i - 1), corrected = corrector(i - 1);
      for (size_t k = 0; k < here.size(); ++k)
        here[k] = corrected[k] - (k == 0 ? 0 : predicted[k - 1]);
    }
    double to = sigmas_[i + 1], keep = to * alpha(to) / b;
    Weights next = predictor(i);
    for (size_t k = 0; k < next.size(); ++k) next[k] += keep * here[k];
    next[0] += alpha(to) * -std::expm1(-step_of(i));
    return {.value_x = v.of_x,
            .value_m = v.of_m,
            .next_x = keep,
            .next_value = next[0],
            .next_h1 = next[1],
            .next_h2 = next[2],
            .next_h3 = next[3],
            .push = true};
  }

 private:
  using Weights = std::array<double, 4>;  // of outputs, newest first

  static double alpha(double sigma) { return 1 / std::sqrt(sigma * sigma + 1); }
  static double lambda(double sigma) { return -std::log(sigma); }
  double step_of(size_t i) const { return lambda(sigmas_[i + 1]) - lambda(sigmas_[i]); }
  bool disabled(size_t i) const {
    return std::find(uncorrected_.begin(), uncorrected_.end(), int64_t(left_out_ + i)) !=
           uncorrected_.end();
  }
  size_t order_at(size_t i) const {
    int64_t left = lower_order_final_ ? int64_t(timesteps_.size() - i) : order_;
    return size_t(std::min({order_, left, int64_t(i) + 1}));
  }

  // What step i has in common for the predictor and the corrector: outputs before it as ratios of
  // steps, and B(h) and the moments of the paper.
  struct Step {
    std::vector<double> ratios;  // of the outputs before, then 1
    std::vector<std::vector<double>> powers;
    std::vector<double> moments;
    double scale = 0;  // alpha B(h)
  };
  Step step_terms(size_t i) const {
    size_t order = order_at(i);
    double h = step_of(i), hh = -h, e = std::expm1(hh), base = bh1_ ? hh : e;
    Step s;
    s.scale = alpha(sigmas_[i + 1]) * base;
    for (size_t k = 1; k < order; ++k)
      s.ratios.push_back((lambda(sigmas_[i - k]) - lambda(sigmas_[i])) / h);
    s.ratios.push_back(1);
    double phi = e / hh - 1, factorial = 1;
    for (size_t k = 1; k <= order; ++k) {
      std::vector<double> row;
      for (double r : s.ratios) row.push_back(std::pow(r, double(k - 1)));
      s.powers.push_back(row);
      s.moments.push_back(phi * factorial / base);
      factorial *= double(k + 1);
      phi = phi / hh - 1 / factorial;
    }
    return s;
  }

  // Beyond order 1: of step i's own output, and of those before it.
  Weights predictor(size_t i) const {
    Weights w = {};
    size_t order = order_at(i);
    if (order == 1 || step_of(i) == 0) return w;
    Step s = step_terms(i);
    std::vector<double> rho = {0.5};  // the library's, for order 2
    if (order > 2) {
      s.powers.pop_back();
      s.moments.pop_back();
      for (std::vector<double>& row : s.powers) row.pop_back();
      rho = solve(s.powers, s.moments);
    }
    for (size_t k = 1; k < order; ++k) {
      double weight = s.scale * rho[k - 1] / s.ratios[k - 1];
      w[k] -= weight;
      w[0] += weight;
    }
    return w;
  }

  // Of the output where step i ends, of its own and of those before it.
  Weights corrector(size_t i) const {
    Weights w = {};
    if (step_of(i) == 0) return w;
    size_t order = order_at(i);
    Step s = step_terms(i);
    std::vector<double> rho = order == 1 ? std::vector<double>{0.5} : solve(s.powers, s.moments);
    double end = s.scale * rho.back();
    w[0] -= end;
    w[1] += end;
    for (size_t k = 1; k < order; ++k) {
      double weight = s.scale * rho[k - 1] / s.ratios[k - 1];
      w[k + 1] -= weight;
      w[1] += weight;
    }
    return w;
  }

  void leave_out(size_t calls) override {
    sigmas_.erase(sigmas_.begin(), sigmas_.begin() + std::ptrdiff_t(calls));
  }
  ImageStart image_start() const override {
    double a = alpha(sigmas_.front());
    return {a, sigmas_.front() * a};
  }

  void plan(int64_t steps) override {
    timesteps_ = multistep_timesteps(spacing_, schedule_.num_train_timesteps, steps, offset_);
    std::vector<double> training = training_sigmas(schedule_.alphas_cumprod);
    sigmas_.clear();
    if (karras_) {
      sigmas_ = karras_sigmas(training.back(), training.front(), steps);
      timesteps_.clear();
      for (double sigma : sigmas_)
        timesteps_.push_back(std::nearbyint(sigma_to_timestep(sigma, training)));
    } else {
      for (double t : timesteps_) sigmas_.push_back(interpolate(t, training));
    }
    sigmas_.push_back(final_zero_ ? 0 : karras_ ? sigmas_.back() : training.front());
    for (double& sigma : sigmas_) sigma = double(float(sigma));
    forget();
  }

  int64_t order_, offset_;
  bool bh1_, lower_order_final_, karras_, final_zero_;
  std::vector<int64_t> uncorrected_;  // steps whose predictor stands
  std::string spacing_;
  std::vector<double> sigmas_;
};
}  // namespace

std::unique_ptr<Scheduler> make_uni_pc_multistep(const Config& config) {
  return std::make_unique<UniPcMultistep>(config);
}

}  // namespace spindle
