// One training of a U-Net: accumulate() micro-batches of a step, then apply() it.
//
// Gradients of a step are kept until apply(). When accumulate() throws (cancelled, diverged, bad
// input), what the step had gathered is dropped and the step must be given again from its first
// micro-batch; weights and moments are never touched by it.
//
// A step may be asked of a device without waiting for it in between (TrainBatch::later). What its
// micro-batches gave is then told by apply(), which throws Diverged, with the weights as they were,
// where accumulate() would have.
//
// With ranks, a step's batch is shared out: every rank accumulates its own pairs, gradients are
// summed over the ranks during the backward of each rank's last micro-batch, and every rank applies
// the same update. A call that throws takes the rank out of its group: what it holds can still be
// saved, but the next step needs a new group.
#pragma once
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "autograd/graphed_step.h"
#include "collective/collective.h"
#include "core/cancel.h"
#include "core/phases.h"
#include "core/rng.h"
#include "models/loaded.h"
#include "sample/noise_schedule.h"
#include "train/adamw.h"
#include "train/adapters.h"
#include "train/gradient_buckets.h"
#include "train/objective.h"
#include "train/schedule.h"
#include "train/step_results.h"

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
  std::optional<LoraOptions> lora =
      {};             // train adapters on the frozen weights; unset: train the weights
  uint64_t seed = 0;  // with `iteration`, keys noise and timesteps
  int64_t iteration = 0;
  int64_t bucket_bytes = 32 << 20;  // of gradients that travel together
};

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
  std::vector<float> time_ids =
      {};  // B rows of original height and width, top, left, target height and width
  // On a device, do not wait for what this micro-batch gives (TrainBatchResult::later), where the
  // objective has a kernel.
  bool later = false;
  // Given instead of drawn, for replays: (B, C, h, w) and B values.
  Tensor noise = {};
  std::vector<int64_t> timesteps = {};
};

struct TrainStepResult {
  double grad_norm = 0;  // before clipping
  double learning_rate = 0;
  std::vector<TrainBatchResult>
      batches;  // of the step's micro-batches that left theirs for later, in their order
  std::vector<Phase> phases;
};

class Trainer {
 public:
  // Without `opponent`, a spin objective plays against `init` itself. With LoRA both must be the
  // same weights with or without one adapter file: they share them, and an opponent without
  // adapters is the base with adapters off.
  Trainer(Device& device,
          const ModelSource& init,
          const ModelSource* opponent,
          const TrainerOptions& options,
          std::unique_ptr<Collective> ranks = nullptr);
  // Plays with the models given (the opponent null for sft and with LoRA, where it is the base);
  // `unet` must be trainable, or with LoRA one that gradients pass through.
  Trainer(std::unique_ptr<Unet> unet,
          std::unique_ptr<Unet> opponent,
          const TrainerOptions& options,
          std::unique_ptr<Collective> ranks = nullptr);

  ~Trainer();

  TrainBatchResult accumulate(const TrainBatch& batch, const CancelToken* cancel);
  // `learning_rate_scale` multiplies the schedule's rate. With ranks, waits for the others'
  // gradients.
  TrainStepResult apply(int64_t step,
                        double learning_rate_scale = 1,
                        const CancelToken* cancel = nullptr);

  // Rank 0's weights, moments and average to all ranks, then verify_ranks(). Nothing without ranks.
  void broadcast_state(const CancelToken* cancel);
  // Every rank's weights and moments are the same bytes, or Internal, naming the rank. Nothing
  // without ranks.
  void verify_ranks(const CancelToken* cancel);

  // weights.*, adam_m.*, adam_v.*, ema.* of what is trained, with `metadata`.
  void save_state(const std::string& path,
                  const std::map<std::string, std::string>& metadata) const;
  // Returns the metadata, with a sentence under "warning" if resuming here cannot give the same
  // bytes.
  std::map<std::string, std::string> load_state(const std::string& path);
  // A whole U-Net: adapters are added to the weights. `averaged`: the moving average.
  void export_weights(const std::string& path, bool averaged) const;
  // With LoRA: the adapters alone.
  void export_adapters(const std::string& path, bool averaged) const;
  Unet& unet() { return *unet_; }
  // What the optimiser moves.
  ParameterStore& trained() { return adapters_ ? adapters_->store() : unet_->store; }
  const ParameterStore& trained() const { return adapters_ ? adapters_->store() : unet_->store; }

 private:
  // What a micro-batch computes from and what comes out. On a device they stay where they are, as
  // captured work has their addresses.
  struct Prepared;
  void prepare(const TrainBatch& batch, Prepared& prepared) const;
  void check(const TrainBatch& batch) const;
  std::vector<ParameterValues> state() const;
  std::vector<double> overlap(const Tensor& prediction,
                              const Tensor& target,
                              const Errors& errors) const;
  bool plays() const { return is_spin(options_.objective.objective); }
  TrainBatchResult gather(const TrainBatch& batch, const CancelToken* cancel);
  TrainStepResult update(int64_t step, double learning_rate_scale, const CancelToken* cancel);
  // Runs `work` with the group; when it throws, this rank leaves the group.
  template <class F>
  auto in_group(F&& work);

  TrainerOptions options_;
  NoiseSchedule schedule_;
  Philox philox_;
  Tensor exported(bool averaged) const;
  Tensor opponent_forward(Tape& tape, const UNetInputs& inputs) const;

  std::unique_ptr<Unet> unet_, opponent_;
  std::unique_ptr<Adapters> adapters_, opponent_adapters_;  // on unet_
  std::optional<AdamW> adamw_;
  Tensor ema_;                        // empty: none
  std::optional<int64_t> gathering_;  // the step whose gradients the arena holds
  const bool shared_;                 // with ranks
  bool complete_ = false;             // this rank's last micro-batch is in
  // Gone before the arena that they write to.
  std::unique_ptr<Collective> ranks_;
  std::unique_ptr<GradientBuckets> buckets_;
  std::unique_ptr<Prepared> kept_;  // on a device
  GraphedStep graphed_;
  StepResults results_;
  std::vector<bool> written_;  // parameters whose gradient a replayed micro-batch writes
  Tensor scalars_;             // StepScalar
};

}  // namespace spindle
