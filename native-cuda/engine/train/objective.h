// What training minimises. With e = mean over an image of (prediction - target)^2, and where a pair
// has several timesteps or timesteps weigh, the mean over its timesteps of weight * e:
//   spin: logit = -(beta / 2) * ((e_real - e_real,opponent) - (e_generated -
//   e_generated,opponent));
//         logistic: softplus(-logit); hinge: relu(1 - logit); ipo: (logit - 1/2)^2
//   sft:  w * e_real, with a weight w per image
// Diffusion-DPO is the logistic loss with a rejected image in the generated one's place and the
// base as opponent (arXiv 2311.12908). IPO is (h - 1 / (2 beta))^2 of h = logit / beta (arXiv
// 2310.12036) times beta^2: the same minimum, at losses of ordinary size.
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "kernels/kernels.h"

namespace spindle {

enum class Objective { SpinLogistic, SpinHinge, SpinIpo, Sft };

// "spin_logistic", "spin_hinge", "spin_ipo" or "sft".
Objective parse_objective(const std::string& name);
inline bool is_spin(Objective objective) { return objective != Objective::Sft; }

// How much the errors at a timestep count in a pair's logit (timestep_weight.h).
enum class TimestepWeight { Constant, Paper, MinSnr };

// "constant", "paper" or "min_snr".
TimestepWeight parse_timestep_weight(const std::string& name);

struct ObjectiveOptions {
  Objective objective = Objective::SpinLogistic;
  double beta = 2000;
  // Timesteps of a pair; its logit is the mean over them. 1 is (4.9) of the SPIN-Diffusion paper,
  // all of them are its (4.8). Only of spin, as is the weight.
  int64_t timesteps_per_pair = 1;
  TimestepWeight timestep_weight = TimestepWeight::Constant;
  // Winner safeguard (Diffusion-SDPO's closed form): the loser's gradient is scaled by the largest
  // lambda <= 1 with which a small step along both still lowers the real image's error by at least
  // this share of what it would fall by alone, to first order and in the space of predictions. From
  // 0 to 1; unset: off.
  std::optional<double> safeguard = {};
};

// Errors of one micro-batch, one value per pair; only `real` for sft. Double: beta multiplies small
// differences of them. Of a pair whose timesteps weigh, or are several: weighted means.
struct Errors {
  std::vector<double> real, generated, opponent_real, opponent_generated;
  // Mean over an image of (prediction - target)_real * (prediction - target)_generated; read for
  // the safeguard only.
  std::vector<double> overlap = {};
  // The same of (prediction - target)_real with itself; empty: `real`. Means over weighed timesteps
  // are those of weight^2 here and in `overlap`, as gradients have the weight once each.
  std::vector<double> overlap_real = {};
  // Weight of each image's error; read for sft only. Empty: 1.
  std::vector<double> weight = {};
};

// Each pair's errors times its weight; empty weights: 1. Leaves `overlap` and `overlap_real` alone.
void weigh_errors(Errors& errors, const std::vector<double>& weights);
// Adds those of other timesteps, to all but `weight`.
void add_errors(Errors& errors, const Errors& others);

struct LossTerms {
  double loss = 0;                                   // sum over the pairs, times `scale`
  std::vector<float> weight_real, weight_generated;  // d loss / d error, the latter times lambda
  double loser_scale = 0;  // sum of lambda over the pairs, times `scale`; 0 for sft
};

// `scale` is one over the size of the step's whole batch, so that micro-batches add up to its mean.
LossTerms loss_terms(const ObjectiveOptions& options, const Errors& errors, double scale);

// The same loss as a kernel of the backend, where there is one for these options. `weighed`: images
// have weights of their own (of sft; a pair's is the kernel's to take).
std::optional<PairLoss> pair_loss_of(const ObjectiveOptions& options, bool weighed);

// Min-SNR weight of an image's error (arXiv 2303.09556, section 3.4) with snr = a / (1 - a):
// min(snr, gamma) / snr where the model predicts noise, / (snr + 1) where it predicts velocity,
// min(snr, gamma) where it predicts the image.
enum class Predicts { Noise, Velocity, Image };
double min_snr_weight(double alpha_cumprod, double gamma, Predicts predicts);

}  // namespace spindle
