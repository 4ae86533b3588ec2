#include "train/objective.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"

namespace spindle {

Objective parse_objective(const std::string& name) {
  if (name == "spin_logistic") return Objective::SpinLogistic;
  if (name == "spin_hinge") return Objective::SpinHinge;
  if (name == "spin_ipo") return Objective::SpinIpo;
  require(name == "sft",
          "[train] objective: expected spin_logistic, spin_hinge, spin_ipo or sft, got ", name);
  return Objective::Sft;
}

TimestepWeight parse_timestep_weight(const std::string& name) {
  if (name == "constant") return TimestepWeight::Constant;
  if (name == "paper") return TimestepWeight::Paper;
  require(name == "min_snr", "[train] timestep_weight: expected constant, paper or min_snr, got ",
          name);
  return TimestepWeight::MinSnr;
}

namespace {

struct Term {
  double loss, slope;  // of the loss along the logit
};

Term logistic(double logit) {
  // softplus(-logit) without overflow
  double loss = std::max(-logit, 0.0) + std::log1p(std::exp(-std::abs(logit)));
  double slope =
      logit >= 0 ? -std::exp(-logit) / (1 + std::exp(-logit)) : -1 / (1 + std::exp(logit));
  return {loss, slope};
}

Term hinge(double logit) { return logit < 1 ? Term{1 - logit, -1} : Term{0, 0}; }

Term ipo(double logit) { return {(logit - 0.5) * (logit - 0.5), 2 * (logit - 0.5)}; }

Term term_of(Objective objective, double logit) {
  switch (objective) {
    case Objective::SpinHinge:
      return hinge(logit);
    case Objective::SpinIpo:
      return ipo(logit);
    default:
      return logistic(logit);
  }
}

// With winner's and loser's gradients a and b: (-a + lambda b) . a <= -mu |a|^2, hence lambda <= (1
// - mu) |a|^2 / (a . b) where a . b > 0. In the space of predictions a and b are the differences to
// the targets, times the same constant. Each pair has a lambda of its own (the paper's is one per
// device batch), so that a step does not depend on how it is cut into micro-batches.
double loser_scale(double error_real, double overlap, double mu) {
  if (!(overlap > 0)) return 1;
  return std::clamp((1 - mu) * error_real / overlap, 0.0, 1.0);
}

}  // namespace

void weigh_errors(Errors& e, const std::vector<double>& weights) {
  for (std::vector<double>* each : {&e.real, &e.generated, &e.opponent_real, &e.opponent_generated})
    for (size_t i = 0; i < std::min(weights.size(), each->size()); ++i) (*each)[i] *= weights[i];
}

void add_errors(Errors& e, const Errors& others) {
  for (auto of : {&Errors::real, &Errors::generated, &Errors::opponent_real,
                  &Errors::opponent_generated, &Errors::overlap, &Errors::overlap_real})
    for (size_t i = 0; i < (e.*of).size(); ++i) (e.*of)[i] += (others.*of)[i];
}

LossTerms loss_terms(const ObjectiveOptions& options, const Errors& errors, double scale) {
  LossTerms terms;
  const std::vector<double>& own = errors.overlap_real.empty() ? errors.real : errors.overlap_real;
  for (size_t i = 0; i < errors.real.size(); ++i) {
    if (!is_spin(options.objective)) {
      double weight = errors.weight.empty() ? 1 : errors.weight[i];
      terms.loss += scale * weight * errors.real[i];
      terms.weight_real.push_back(float(scale * weight));
      continue;
    }
    double gain = (errors.real[i] - errors.opponent_real[i]) -
                  (errors.generated[i] - errors.opponent_generated[i]);
    double logit = -0.5 * options.beta * gain;
    if (std::isnan(logit)) {
      terms.loss = logit;  // the caller stops; hinge and max would hide it
      return terms;
    }
    Term term = term_of(options.objective, logit);
    double lambda =
        options.safeguard ? loser_scale(own[i], errors.overlap[i], *options.safeguard) : 1;
    terms.loss += scale * term.loss;
    terms.loser_scale += scale * lambda;
    terms.weight_real.push_back(float(scale * term.slope * -0.5 * options.beta));
    terms.weight_generated.push_back(float(scale * term.slope * 0.5 * options.beta * lambda));
  }
  return terms;
}

std::optional<PairLoss> pair_loss_of(const ObjectiveOptions& options, bool weighed) {
  if (options.safeguard || weighed || options.timesteps_per_pair > 1) return std::nullopt;
  switch (options.objective) {
    case Objective::SpinLogistic:
      return PairLoss::Logistic;
    case Objective::SpinHinge:
      return PairLoss::Hinge;
    case Objective::SpinIpo:
      return PairLoss::Ipo;
    case Objective::Sft:
      return PairLoss::Plain;
  }
  return std::nullopt;
}

double min_snr_weight(double alpha_cumprod, double gamma, Predicts predicts) {
  double snr = alpha_cumprod / (1 - alpha_cumprod);
  switch (predicts) {
    case Predicts::Noise:
      return snr > gamma ? gamma / snr : 1;  // also where snr is 0
    case Predicts::Velocity:
      return std::min(snr, gamma) / (snr + 1);
    case Predicts::Image:
      return std::min(snr, gamma);
  }
  return 1;
}

}  // namespace spindle
