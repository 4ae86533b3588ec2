// Pseudo numerical methods for diffusion models (arXiv 2202.09778): a Runge-Kutta start unless
// skipped, then linear multistep.
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
    if (schedule_.prediction_type == PredictionType::Sample)
      config.refuse("prediction_type", "epsilon or v_prediction for PNDMScheduler");
    // diffusers' PNDM has no such option; a config that sets it was meant for another class.
    config.only("rescale_betas_zero_snr", {false});
    skip_prk_ = config.boolean("skip_prk_steps", false);
    spacing_ = config.choice("timestep_spacing", {"leading", "trailing", "linspace"}, "leading");
    offset_ = config.integer("steps_offset", 0);
    final_alpha_ =
        config.boolean("set_alpha_to_one", false) ? 1.0 : double(schedule_.alphas_cumprod[0]);
  }

  LinearStep linear_step(size_t i) const override {
    bool runge_kutta = i < prk_.size(), corrects = skip_prk_ && i == 1;
    auto [timestep, previous] = span_of(i);
    Move move = move_between(timestep, previous);
    // The estimate is a sum of m and what the memory has; the move is from x, or from where it was
    // stored.
    LinearStep step{.value_m = 1};
    double from = move.keep, take = move.take;
    if (schedule_.prediction_type == PredictionType::Velocity)
      from -= take * move.sb, take *= move.sa;
    (corrects || (runge_kutta && i % 4 != 0) ? step.next_start : step.next_x) = from;
    std::vector<double> estimate = {1, 0, 0, 0};  // of m, h1, h2, h3
    if (runge_kutta) {
      double weight = i % 4 == 0 || i % 4 == 3 ? 1.0 / 6 : 1.0 / 3;
      step.store = step.push = i % 4 == 0;
      step.sum_keep = i % 4 == 0 ? 0 : 1;
      step.sum_m = weight;
      if (i % 4 == 3) estimate[0] = weight, step.next_sum = -take;
    } else if (corrects) {
      estimate = {0.5, 0.5, 0, 0};
    } else {
      step.push = true;
      step.store = skip_prk_ && i == 0;
      // With the first kOrder steps by Runge and Kutta, three estimates are there before the first
      // of these.
      const std::vector<double>& weights =
          kMultistep[std::min(skip_prk_ ? std::max<size_t>(i, 1) : kOrder, kOrder) - 1];
      std::copy(weights.begin(), weights.end(), estimate.begin());
    }
    step.next_m = -take * estimate[0];
    step.next_h1 = -take * estimate[1];
    step.next_h2 = -take * estimate[2];
    step.next_h3 = -take * estimate[3];
    return step;
  }

 private:
  // Adams and Bashforth's, by how many estimates there are, newest first.
  inline static const std::vector<double> kMultistep[kOrder] = {
      {1},
      {3.0 / 2, -1.0 / 2},
      {23.0 / 12, -16.0 / 12, 5.0 / 12},
      {55.0 / 24, -59.0 / 24, 37.0 / 24, -9.0 / 24}};

  // Which timesteps call i goes from and to.
  std::pair<int64_t, int64_t> span_of(size_t i) const {
    int64_t ratio = schedule_.num_train_timesteps / steps_, timestep = int64_t(timesteps_[i]);
    if (i < prk_.size()) return {int64_t(prk_[i / 4 * 4]), timestep - (i % 2 ? 0 : ratio / 2)};
    if (skip_prk_ && i == 1)
      return {timestep + ratio, timestep};  // corrects the first step, from where it started
    return {timestep, timestep - ratio};
  }

  void plan(int64_t steps) override {
    int64_t n = schedule_.num_train_timesteps;
    std::vector<double> t = spacing_ == "linspace"  ? linspace_timesteps(n, steps, true)
                            : spacing_ == "leading" ? leading_timesteps(n / steps, steps, offset_)
                                                    : trailing_timesteps(n, n, steps);
    history_.clear();
    runge_kutta_.clear();
    start_.clear();
    prk_.clear();
    if (skip_prk_) {
      if (t.size() > 1) t.insert(t.begin() + 1, t[1]);  // the second is called twice
      timesteps_ = t;
      return;
    }
    require(t.size() >= kOrder, "[scheduler] steps: expected at least ", kOrder,
            " for PNDMScheduler without skip_prk_steps, got ", steps);
    // Each of the first `kOrder` timesteps and its midpoint towards the one before, falling, ends
    // once and the rest twice.
    std::vector<double> pairs;
    int64_t whole = n / steps / 2;  // rounded down, as in the reference
    double half = double(whole);
    for (size_t k = 0; k < kOrder; ++k) pairs.insert(pairs.end(), {t[k] + half, t[k]});
    pairs.erase(pairs.begin());
    for (double value : pairs) prk_.insert(prk_.end(), {value, value});
    prk_.erase(prk_.begin());
    prk_.pop_back();
    timesteps_ = prk_;
    timesteps_.insert(timesteps_.end(), t.begin() + 3, t.end());
  }

  // prk_ stays: the library counts its calls from the first that is made.
  void leave_out(size_t) override {}
  ImageStart image_start() const override { return scheduled_start(); }

  void advance(float* x,
               const float* model_output,
               int64_t count,
               size_t i,
               const NoiseSource&) override {
    if (i < prk_.size())
      runge_kutta_step(x, model_output, size_t(count), i);
    else
      multistep_step(x, model_output, size_t(count), i);
  }

  void runge_kutta_step(float* x, const float* model_output, size_t count, size_t i) {
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
    move(x, out.data(), count, i);
  }

  void multistep_step(float* x, const float* model_output, size_t count, size_t i) {
    std::vector<float> out(model_output, model_output + count);
    if (i != 1 || !skip_prk_) {
      while (history_.size() > kOrder - 1) history_.pop_front();
      history_.push_back(out);
    }
    if (skip_prk_ && i == 0) {
      start_.assign(x, x + count);
    } else if (skip_prk_ && i == 1) {
      for (size_t k = 0; k < count; ++k) out[k] = (out[k] + history_.back()[k]) / 2;
      std::copy(start_.begin(), start_.end(), x);
    } else if (history_.size() > 1) {
      std::vector<double> sum(count, 0);
      size_t back = history_.size();
      for (double w : kMultistep[history_.size() - 1]) {
        const std::vector<float>& e = history_[--back];
        for (size_t k = 0; k < count; ++k) sum[k] += w * double(e[k]);
      }
      out.assign(sum.begin(), sum.end());
    }
    move(x, out.data(), count, i);
  }

  // Formula (9) of the paper: the next x = keep x - take eps.
  struct Move {
    double keep, take, sa, sb;
  };
  Move move_between(int64_t timestep, int64_t previous) const {
    timestep = std::min(timestep, schedule_.num_train_timesteps - 1);
    double a = double(schedule_.alphas_cumprod[size_t(timestep)]),
           a_prev =
               previous >= 0 ? double(schedule_.alphas_cumprod[size_t(previous)]) : final_alpha_;
    double b = 1 - a, b_prev = 1 - a_prev;
    return {std::sqrt(a_prev / a),
            (a_prev - a) / (a * std::sqrt(b_prev) + std::sqrt(a * b * a_prev)), std::sqrt(a),
            std::sqrt(b)};
  }

  void move(float* x, const float* model_output, size_t count, size_t i) const {
    auto [timestep, previous] = span_of(i);
    Move m = move_between(timestep, previous);
    float keep = float(m.keep), take = float(m.take), sa = float(m.sa), sb = float(m.sb);
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

std::unique_ptr<Scheduler> make_pndm(const Config& config) {
  return std::make_unique<Pndm>(config);
}

}  // namespace spindle
