#include "train/objective.h"

#include <cmath>

#include "core/error.h"

namespace spindle {

Objective parse_objective(const std::string& name) {
  if (name == "spin_logistic") return Objective::SpinLogistic;
  if (name == "spin_hinge") return Objective::SpinHinge;
  require(name == "sft", "[train] objective: expected spin_logistic, spin_hinge or sft, got ", name);
  return Objective::Sft;
}

namespace {

struct Term {
  double loss, slope;  // of the loss along the logit
};

Term logistic(double logit) {
  // softplus(-logit) without overflow
  double loss = std::max(-logit, 0.0) + std::log1p(std::exp(-std::abs(logit)));
  double slope = logit >= 0 ? -std::exp(-logit) / (1 + std::exp(-logit)) : -1 / (1 + std::exp(logit));
  return {loss, slope};
}

Term hinge(double logit) { return logit < 1 ? Term{1 - logit, -1} : Term{0, 0}; }

}  // namespace

LossTerms loss_terms(Objective objective, double beta, const Errors& errors, double scale) {
  LossTerms terms;
  for (size_t i = 0; i < errors.real.size(); ++i) {
    if (!is_spin(objective)) {
      terms.loss += scale * errors.real[i];
      terms.weight_real.push_back(float(scale));
      continue;
    }
    double gain = (errors.real[i] - errors.opponent_real[i]) - (errors.generated[i] - errors.opponent_generated[i]);
    double logit = -0.5 * beta * gain;
    if (std::isnan(logit)) {
      terms.loss = logit;  // the caller stops; hinge and max would hide it
      return terms;
    }
    Term term = objective == Objective::SpinLogistic ? logistic(logit) : hinge(logit);
    terms.loss += scale * term.loss;
    terms.weight_real.push_back(float(scale * term.slope * -0.5 * beta));
    terms.weight_generated.push_back(float(scale * term.slope * 0.5 * beta));
  }
  return terms;
}

}  // namespace spindle
