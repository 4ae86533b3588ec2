// What training minimises. With e = mean over an image of (prediction - target)^2:
//   spin: logit = -(beta / 2) * ((e_real - e_real,opponent) - (e_generated - e_generated,opponent));
//         logistic: softplus(-logit); hinge: relu(1 - logit)
//   sft:  e_real
#pragma once
#include <string>
#include <vector>

namespace spindle {

enum class Objective { SpinLogistic, SpinHinge, Sft };

// "spin_logistic", "spin_hinge" or "sft".
Objective parse_objective(const std::string& name);
inline bool is_spin(Objective objective) { return objective != Objective::Sft; }

// Errors of one micro-batch, one value per pair; only `real` for sft. Double: beta multiplies small differences of them.
struct Errors {
  std::vector<double> real, generated, opponent_real, opponent_generated;
};

struct LossTerms {
  double loss = 0;                                      // sum over the pairs, times `scale`
  std::vector<float> weight_real, weight_generated;  // d loss / d error
};

// `scale` is one over the size of the step's whole batch, so that micro-batches add up to its mean.
LossTerms loss_terms(Objective objective, double beta, const Errors& errors, double scale);

}  // namespace spindle
