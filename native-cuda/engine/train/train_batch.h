// What a caller gives for one micro-batch: latents and texts as they are, without noise.
// check_batch() refuses what does not fit the model or the training.
#pragma once
#include <vector>

#include "core/tensor.h"
#include "models/unet2d_condition_config.h"

namespace spindle {

struct TrainBatch {
  int64_t step = 0;             // optimiser step, from 0
  int64_t offset = 0;           // position of the first pair in the step's whole batch
  int64_t step_batch_size = 1;  // of all its micro-batches together, on all ranks
  bool last = true;             // this rank's last micro-batch of the step; only read with ranks
  Tensor real;                  // (B, C, h, w) float32 latents, scaled
  Tensor generated;             // the same; empty for sft
  Tensor text;                  // (B, T, D) float32
  double beta = 0;              // of this step; 0: the options'
  // Of models with the text_time embedding (SDXL) alone, shared by a pair's two images:
  Tensor pooled = {};  // (B, P) float32
  // B rows of original height and width, top, left, target height and width
  std::vector<float> time_ids = {};
  // On a device, do not wait for what this micro-batch gives (TrainBatchResult::later), where the
  // objective has a kernel.
  bool later = false;
  // Given instead of drawn, for replays: (B, C, h, w), and B times as many values as a pair has
  // timesteps, those of a pair side by side.
  Tensor noise = {};
  std::vector<int64_t> timesteps = {};
};

// What a training asks of its batches.
struct BatchRules {
  const UNet2DConditionConfig& model;
  bool plays = false;  // generated images are expected
  int64_t num_train_timesteps = 0;
  int64_t timesteps_per_pair = 1;
};

// Throws InvalidArgument, which names the field, what was expected and what was there.
void check_batch(const TrainBatch& batch, const BatchRules& rules);

}  // namespace spindle
