#include "train/train_batch.h"

#include "core/error.h"

namespace spindle {

namespace {

void check_images(const TrainBatch& b, const BatchRules& rules) {
  int64_t channels = rules.model.in_channels;
  require(b.real.rank() == 4 && b.real.numel() > 0 && b.real.dim(1) == channels,
          "[train] real: expected (B, ", channels, ", h, w), got ", b.real.shape());
  int64_t pairs = b.real.dim(0);
  require(b.offset + pairs <= b.step_batch_size,
          "[train] step_batch_size: expected at least offset ", b.offset, " + ", pairs, ", got ",
          b.step_batch_size);
  require(bool(b.generated) == rules.plays, "[train] generated: expected ",
          rules.plays ? "images for a spin objective, got none" : "none for sft, got images");
  if (b.generated)
    require(b.generated.shape() == b.real.shape(), "[train] generated: expected ", b.real.shape(),
            ", got ", b.generated.shape());
}

void check_conditioning(const TrainBatch& b, const BatchRules& rules) {
  int64_t pairs = b.real.dim(0), width = rules.model.cross_attention_dim;
  require(b.text.rank() == 3 && b.text.dim(0) == pairs && b.text.dim(2) == width,
          "[train] text: expected (", pairs, ", T, ", width, "), got ", b.text.shape());
  bool text_time = rules.model.text_time();
  require(bool(b.pooled) == text_time && b.time_ids.empty() != text_time,
          "[train] pooled and time_ids: expected ",
          text_time ? "both with this model's text_time embedding" : "none with this model");
  if (b.pooled)
    require(
        b.pooled.rank() == 2 && b.pooled.dim(0) == pairs && b.time_ids.size() % size_t(pairs) == 0,
        "[train] pooled and time_ids: expected ", pairs, " rows, got ", b.pooled.shape(), " and ",
        b.time_ids.size(), " numbers");
}

// Of a replay.
void check_draws(const TrainBatch& b, const BatchRules& rules) {
  int64_t pairs = b.real.dim(0);
  if (b.noise)
    require(b.noise.shape() == b.real.shape(), "[train] noise: expected ", b.real.shape(), ", got ",
            b.noise.shape());
  int64_t timesteps = pairs * rules.timesteps_per_pair;
  require(b.timesteps.empty() || int64_t(b.timesteps.size()) == timesteps,
          "[train] timesteps: expected ", timesteps, ", got ", b.timesteps.size());
  for (int64_t t : b.timesteps)
    require(t >= 0 && t < rules.num_train_timesteps, "[train] timesteps: expected values below ",
            rules.num_train_timesteps, ", got ", t);
}

}  // namespace

void check_batch(const TrainBatch& b, const BatchRules& rules) {
  require(b.step >= 0 && b.offset >= 0, "[train] step and offset: expected 0 or more, got ", b.step,
          " and ", b.offset);
  require(b.beta >= 0, "[train] beta: expected 0 or more, got ", b.beta);
  check_images(b, rules);
  check_conditioning(b, rules);
  check_draws(b, rules);
}

}  // namespace spindle
