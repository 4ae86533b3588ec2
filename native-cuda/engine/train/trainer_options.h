// How a training is set up. check_options() says what does not go together.
#pragma once
#include <optional>
#include <string>

#include "train/adamw.h"
#include "train/adapters.h"
#include "train/objective.h"
#include "train/schedule.h"

namespace spindle {

struct TrainerOptions {
  ObjectiveOptions objective;
  double min_snr_gamma = 0;      // sft only; 0: every image weighs 1
  std::string scheduler_config;  // scheduler_config.json: noise schedule and prediction_type
  DType compute = DType::F32;
  LearningRate learning_rate;
  AdamWOptions adamw;
  double max_grad_norm = 1;               // 0: no clipping
  double ema_decay = 0;                   // 0: no average
  bool activation_checkpointing = false;  // less memory, one more forward; the same results
  // Train adapters on the frozen weights; unset: train the weights.
  std::optional<LoraOptions> lora = {};
  uint64_t seed = 0;  // with `iteration`, keys noise and timesteps
  int64_t iteration = 0;
  int64_t bucket_bytes = 32 << 20;  // of gradients that travel together

  // There are generated images and an opponent.
  bool plays() const { return is_spin(objective.objective); }
};

// Throws InvalidArgument, which names the first option that is out of its bounds.
void check_options(const TrainerOptions& options);

}  // namespace spindle
