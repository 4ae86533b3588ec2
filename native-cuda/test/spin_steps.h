// A training with random weights and made-up batches, for tests that run whole steps.
#pragma once
#include "tiny_models.h"
#include "train/trainer.h"

namespace spindle {

// Wide enough for several column panels and many blocks of rows, so that threads do share the work
// of one kernel; the smaller layers of tiny::kUnet would all be one task.
inline const char* const kStepUnet =
    R"({"sample_size":16,"block_out_channels":[32,96],"layers_per_block":1,"cross_attention_dim":24,"attention_head_dim":2,"norm_num_groups":8,
  "down_block_types":["CrossAttnDownBlock2D","DownBlock2D"],"up_block_types":["UpBlock2D","CrossAttnUpBlock2D"]})";

class SpinSteps {
 public:
  SpinSteps(Device& device, DType compute, int64_t pairs = 2) {
    TrainerOptions options;
    options.compute = compute;
    options.scheduler_config = tiny::kDdim;
    options.learning_rate = {.base = 1e-3};
    options.seed = 11;
    auto unet = random_unet(device, kStepUnet, {.compute = compute, .trainable = true});
    auto opponent = copy_unet(*unet);
    trainer_ = std::make_unique<Trainer>(std::move(unet), std::move(opponent), options);
    batch_.step_batch_size = pairs;
    batch_.real = tiny::random(device, {pairs, 4, 16, 16}, 1);
    batch_.generated = tiny::random(device, {pairs, 4, 16, 16}, 2);
    batch_.text = tiny::random(device, {pairs, 7, 24}, 3);
  }

  // One optimiser step: the opponent's forward, forward and backward, clipping, AdamW.
  void step() {
    trainer_->accumulate(batch_, nullptr);
    trainer_->apply(batch_.step++);
  }
  Unet& unet() { return trainer_->unet(); }

 private:
  TrainBatch batch_;
  std::unique_ptr<Trainer> trainer_;
};

}  // namespace spindle
