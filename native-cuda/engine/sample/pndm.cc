// Pseudo numerical methods for diffusion models (arXiv 2202.09778): a Runge-Kutta start unless skipped, then linear multistep.
#include <algorithm>
#include <cmath>
#include <deque>

#include "core/error.h"
#include "sample/schedulers.h"
#include "sample/timestep_spacing.h"

namespace spindle {

namespace {
constexpr size_t kOrder = 4;

class Pndm : public Scheduler {
 public:
  explicit Pndm(const Config& config) : Scheduler(NoiseSchedule::from_config(config)) {
    if (schedule_.prediction_type == PredictionType::Sample) config.refuse("prediction_type", "epsilon or v_prediction for PNDMScheduler");
    // diffusers' PNDM has no such option; a config that sets it was meant for another class.
    config.only("rescale_betas_zero_snr", {false});
    skip_prk_ = config.boolean("skip_prk_steps", false);
    spacing_ = config.choice("timestep_spacing", {"leading", "trailing", "linspace"}, "leading");
    offset_ = config.integer("steps_offset", 0);
    final_alpha_ = config.boolean("set_alpha_to_one", false) ? 1.0 : double(schedule_.alphas_cumprod[0]);
  }

 private:
  void plan(int64_t steps) override {
    int64_t n = schedule_.num_train_timesteps;
    std::vector<double> t = spacing_ == "linspace" ? linspace_timesteps(n, steps, true) : spacing_ == "leading" ? leading_timesteps(n / steps, steps, offset_) : trailing_timesteps(n, n, steps);
    history_.clear();
    runge_kutta_.clear();
    start_.clear();
    prk_.clear();
    if (skip_prk_) {
      if (t.size() > 1) t.insert(t.begin() + 1, t[1]);  // the second is called twice
      timesteps_ = t;
      return;
    }
    require(t.size() >= kOrder, "[scheduler] steps: expected at least ", kOrder, " for PNDMScheduler without skip_prk_steps, got ", steps);
    // Each of the first `kOrder` timesteps and its midpoint towards the one before, falling, ends once and the rest twice.
    std::vector<double> pairs;
    double half = double(n / steps / 2);
    for (size_t k = 0; k < kOrder; ++k) pairs.insert(pairs.end(), {t[k] + half, t[k]});
    pairs.erase(pairs.begin());
    for (double value : pairs) prk_.insert(prk_.end(), {value, value});
    prk_.erase(prk_.begin());
    prk_.pop_back();
    timesteps_ = prk_;
    timesteps_.insert(timesteps_.end(), t.begin() + 3, t.end());
  }

  void advance(float* x, const float* model_output, int64_t count, size_t i, const NoiseSource&) override {
    if (i < prk_.size()) runge_kutta_step(x, model_output, size_t(count), i);
    else multistep_step(x, model_output, size_t(count), i);
  }

  void runge_kutta_step(float* x, const float* model_output, size_t count, size_t i) {
    int64_t ratio = schedule_.num_train_timesteps / steps_;
    int64_t previous = int64_t(timesteps_[i]) - (i % 2 ? 0 : ratio / 2), timestep = int64_t(prk_[i / 4 * 4]);
    std::vector<float> out(model_output, model_output + count);
    if (i % 4 == 0) {
      runge_kutta_.assign(count, 0);
      history_.push_back(out);
      start_.assign(x, x + count);
    }
    float weight = i % 4 == 0 || i % 4 == 3 ? 1.0f / 6 : 1.0f / 3;
    for (size_t k = 0; k < count; ++k) runge_kutta_[k] += weight * model_output[k];
    if (i % 4 == 3) out = runge_kutta_;
    std::copy(start_.begin(), start_.end(), x);
    move(x, out.data(), count, timestep, previous);
  }

  void multistep_step(float* x, const float* model_output, size_t count, size_t i) {
    int64_t ratio = schedule_.num_train_timesteps / steps_, timestep = int64_t(timesteps_[i]), previous = timestep - ratio;
    std::vector<float> out(model_output, model_output + count);
    if (i != 1 || !skip_prk_) {
      while (history_.size() > kOrder - 1) history_.pop_front();
      history_.push_back(out);
    } else {  // corrects the first step, from where it started
      previous = timestep;
      timestep += ratio;
    }
    auto combine = [&](std::initializer_list<double> weights) {  // newest first
      std::vector<double> sum(count, 0);
      size_t back = history_.size();
      for (double w : weights) {
        const std::vector<float>& e = history_[--back];
        for (size_t k = 0; k < count; ++k) sum[k] += w * double(e[k]);
      }
      out.assign(sum.begin(), sum.end());
    };
    if (skip_prk_ && i == 0) {
      start_.assign(x, x + count);
    } else if (skip_prk_ && i == 1) {
      for (size_t k = 0; k < count; ++k) out[k] = (out[k] + history_.back()[k]) / 2;
      std::copy(start_.begin(), start_.end(), x);
    } else if (history_.size() == 2) {
      combine({3.0 / 2, -1.0 / 2});
    } else if (history_.size() == 3) {
      combine({23.0 / 12, -16.0 / 12, 5.0 / 12});
    } else if (history_.size() == 4) {
      combine({55.0 / 24, -59.0 / 24, 37.0 / 24, -9.0 / 24});
    }
    move(x, out.data(), count, timestep, previous);
  }

  // Formula (9) of the paper.
  void move(float* x, const float* model_output, size_t count, int64_t timestep, int64_t previous) const {
    timestep = std::min(timestep, schedule_.num_train_timesteps - 1);
    double a = double(schedule_.alphas_cumprod[size_t(timestep)]), a_prev = previous >= 0 ? double(schedule_.alphas_cumprod[size_t(previous)]) : final_alpha_;
    double b = 1 - a, b_prev = 1 - a_prev;
    float keep = float(std::sqrt(a_prev / a)), take = float((a_prev - a) / (a * std::sqrt(b_prev) + std::sqrt(a * b * a_prev)));
    float sa = float(std::sqrt(a)), sb = float(std::sqrt(b));
    bool velocity = schedule_.prediction_type == PredictionType::Velocity;
    for (size_t k = 0; k < count; ++k) {
      float eps = velocity ? sa * model_output[k] + sb * x[k] : model_output[k];
      x[k] = keep * x[k] - take * eps;
    }
  }

  bool skip_prk_;
  std::string spacing_;
  int64_t offset_;
  double final_alpha_;
  std::vector<double> prk_;
  std::deque<std::vector<float>> history_;  // newest last
  std::vector<float> runge_kutta_, start_;
};
}  // namespace

std::unique_ptr<Scheduler> make_pndm(const Config& config) { return std::make_unique<Pndm>(config); }

}  // namespace spindle
