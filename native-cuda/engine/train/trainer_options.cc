#include "train/trainer_options.h"

#include "core/error.h"

namespace spindle {

void check_options(const TrainerOptions& options) {
  require(options.iteration >= 0, "[train] iteration: expected 0 or more, got ", options.iteration);
  require(options.min_snr_gamma >= 0 && (options.min_snr_gamma == 0 || !options.plays()),
          "[train] min_snr_gamma: expected 0 or more, and 0 for a spin objective, got ",
          options.min_snr_gamma);
  if (std::optional<double> safeguard = options.objective.safeguard)
    require(options.plays() && *safeguard >= 0 && *safeguard <= 1,
            "[train] safeguard: expected a number from 0 to 1 and a spin objective, got ",
            *safeguard);
  require(options.objective.timesteps_per_pair >= 1 &&
              (options.objective.timesteps_per_pair == 1 || options.plays()),
          "[train] timesteps_per_pair: expected 1 or more, and 1 for sft, got ",
          options.objective.timesteps_per_pair);
  require(options.objective.timestep_weight == TimestepWeight::Constant || options.plays(),
          "[train] timestep_weight: expected constant for sft, got another");
  require(options.ema_decay >= 0 && options.ema_decay < 1,
          "[train] ema_decay: expected 0 or more and below 1, got ", options.ema_decay);
}

}  // namespace spindle
