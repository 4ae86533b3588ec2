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
#include "models/loaded.h"
#include "train/adamw.h"
#include "train/adapters.h"
#include "train/gradient_buckets.h"
#include "train/loss.h"
#include "train/micro_batch.h"
#include "train/opponent.h"
#include "train/step_results.h"
#include "train/train_batch.h"
#include "train/trainer_options.h"

namespace spindle {

struct TrainStepResult {
  double grad_norm = 0;  // before clipping
  double learning_rate = 0;
  // Of the step's micro-batches that left theirs for later, in their order.
  std::vector<TrainBatchResult> batches;
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
  // Refuses what does not fit the model, and what does not go on with the open step.
  void check(const TrainBatch& batch) const;
  TrainBatchResult run(const TrainBatch& given, const CancelToken* cancel);
  // The tensors for `given` that captured work has the addresses of. Where they do not fit, new
  // ones, and nothing is captured any more.
  MicroBatch& captured_batch(const TrainBatch& given);
  // All turns of a micro-batch, of which `batch` is for one: those before the last are measured
  // without gradients, then the last one's gradients follow from its forward, and the others come
  // once more. So memory is that of one turn.
  void gather_turns(MicroBatch& batch,
                    const TrainBatch& given,
                    PhaseClock& clock,
                    const CancelToken* cancel);
  // Adds a prepared micro-batch's gradients to those of the step.
  void gather(const MicroBatch& batch, PhaseClock& clock, const CancelToken* cancel);
  // The same, captured and replayed.
  void gather_captured(const MicroBatch& batch, PhaseClock& clock, const CancelToken* cancel);
  // The prediction (N, h, w, C); its errors into `batch.errors` (N).
  Tensor forward(Tape& tape, const MicroBatch& batch) const;
  void backward(Tape& tape, const MicroBatch& batch, const Tensor& prediction);
  TrainStepResult update(int64_t step, double learning_rate_scale, const CancelToken* cancel);
  // Runs `work`, which may talk to the other ranks. When it throws, this rank leaves them.
  template <class F>
  auto with_ranks(F&& work);
  std::vector<ParameterValues> state() const;
  Tensor exported(bool averaged) const;

  TrainerOptions options_;
  std::unique_ptr<Unet> unet_;
  std::unique_ptr<Adapters> adapters_;  // on unet_; null: its weights are trained
  std::unique_ptr<Opponent> opponent_;  // null: sft
  MicroBatchPreparer preparer_;
  std::unique_ptr<Loss> loss_;
  std::optional<AdamW> adamw_;
  Tensor ema_;      // of the trained parameters' arena; empty: none
  Tensor scalars_;  // (kStepScalars) float64

  std::optional<int64_t> open_step_;  // the step whose gradients the arena holds
  bool complete_ = false;             // the last micro-batch of the open step is in
  StepResults results_;               // of the open step

  const bool multi_rank_;
  // Gone before the arena that they write to.
  std::unique_ptr<Collective> ranks_;  // null: this process trains alone, or it left the ranks
  std::unique_ptr<GradientBuckets> buckets_;

  // On a device: the tensors that captured work reads and writes.
  std::unique_ptr<MicroBatch> captured_batch_;
  GraphedStep graphed_;
  std::vector<bool> written_;  // parameters whose gradient a replayed micro-batch writes
};

}  // namespace spindle
