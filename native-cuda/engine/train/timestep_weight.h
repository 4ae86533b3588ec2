// How much the error at each timestep counts.
#pragma once
#include <vector>

#include "sample/noise_schedule.h"
#include "train/objective.h"

namespace spindle {

// Of each timestep, for the error of what the model predicts; their mean is 1, so that beta means
// the same with every weight. Empty: all weigh 1.
//   Paper: h_t^2 of the SPIN-Diffusion paper (C.6), sigma -> 0, of the noise's error:
//     h_t = sqrt(1 - a_{t-1}) - sqrt(a_{t-1} / a_t) sqrt(1 - a_t), and a = 1 before the first.
//   MinSnr: min_snr_weight() with gamma = 5.
// With x_t given, the noise's error is a_t times that of the velocity, and a_t / (1 - a_t) times
// that of the image: Paper is multiplied so where the model predicts those.
// What may go wrong: InvalidArgument where a model that predicts noise has a timestep without
// signal.
std::vector<double> timestep_weights(const NoiseSchedule& schedule, TimestepWeight weight);

// What `schedule`'s model predicts, as min_snr_weight() takes it.
Predicts predicts(const NoiseSchedule& schedule);

}  // namespace spindle
