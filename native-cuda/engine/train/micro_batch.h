// A micro-batch as the model takes it: noisy images, what should be predicted of them, and room for
// what comes out. Real images come first, then generated ones.
//
// Captured work holds the addresses of these tensors. So prepare() writes into the tensors that are
// there if they have the right shapes, and makes new ones only where they do not; what was captured
// with the old ones must not run again then (fits() tells). What may go wrong: no memory
// (ResourceExhausted); the micro-batch is half made then and must be prepared again.
#pragma once
#include <vector>

#include "autograd/device.h"
#include "core/rng.h"
#include "models/unet2d_condition.h"
#include "sample/noise_schedule.h"
#include "train/train_batch.h"
#include "train/trainer_options.h"

namespace spindle {

// B pairs (of sft: images); N = 2B images with an opponent, else B. Tensors are float32 where
// nothing else is said.
struct MicroBatch {
  int64_t step = 0;
  int64_t pairs = 0;            // B
  int64_t step_batch_size = 1;  // pairs of all micro-batches of the step, on all ranks
  bool first = true;            // of the step: gradients are stored, not added
  bool last = true;             // of the step, on this rank
  double beta = 0;
  int64_t turn = 0;  // which of the pairs' timesteps this is
  // B: how much the errors of this turn count in their pair's; of sft, the images' weights.
  // Empty: 1.
  std::vector<double> image_weights;

  UNetInputs inputs;       // N images and texts, in the compute precision
  Tensor target;           // (N, h, w, C)
  Tensor errors;           // (N) float64
  Tensor opponent_errors;  // (N) float64; empty without an opponent
  Tensor loss;             // (1) float64: PairLossWeights
  Tensor loss_settings;    // (2) float64: PairLossWeights
  Tensor pair_factors;     // (B) float64: image_weights; empty without, and of sft
  Tensor weights;          // (N): d loss / d error

  // On the way to the inputs and the target.
  struct Intermediate {
    Tensor coefficients;         // (B, 4): Diffuse
    Tensor places;               // (2) float64: NormalNoise
    Tensor noise;                // (B, C, h, w)
    Tensor noisy, clean_target;  // (N, C, h, w)
    Tensor text;                 // (N, T, D)
    Tensor pooled;               // (N, P)
  } intermediate;

  bool plays() const { return bool(opponent_errors); }
  // TrainBatchResult::loser_scale without a safeguard: every pair counts as 1.
  double full_loser_scale() const { return plays() ? double(pairs) / double(step_batch_size) : 0; }
  // These tensors have the shapes that `given` needs.
  bool fits(const TrainBatch& given) const;
};

// Draws timesteps and noise, keyed by step and place in the step's whole batch, and adds the noise.
class MicroBatchPreparer {
 public:
  MicroBatchPreparer(Device& device, const TrainerOptions& options);
  int64_t num_train_timesteps() const { return schedule_.num_train_timesteps; }
  // Turns of a micro-batch: as many as a pair has timesteps.
  int64_t turns() const { return turns_; }
  // All of `batch` but `first`, and but the values that come out. `given` is checked already. The
  // turns of a pair share its noise: without sigma, x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) noise of
  // one noise is the trajectory of the paper's (3.1).
  void prepare(MicroBatch& batch, const TrainBatch& given, int64_t turn = 0) const;

 private:
  struct Draws {
    std::vector<float> timesteps;       // N
    std::vector<float> coefficients;    // (B, 4)
    std::vector<double> image_weights;  // B, or none
  };
  Draws draw(const TrainBatch& given, int64_t turn) const;
  int64_t timestep_of(const TrainBatch& given, int64_t pair, int64_t turn) const;
  // How much the error at a timestep counts in a pair's; of sft, an image's weight.
  double weight_of(int64_t timestep) const;
  void add_noise(MicroBatch& batch, const TrainBatch& given) const;
  void to_model_layout(MicroBatch& batch) const;
  void condition(MicroBatch& batch, const TrainBatch& given) const;
  // x (B,...) once for each side of the pairs: into `wide` (N,...), and from there into `out` in
  // the compute precision.
  void repeat(Tensor& out, Tensor& wide, const Tensor& x, int64_t sides) const;
  void make_room(MicroBatch& batch) const;
  // The tensor that is there, if it has this shape and type, or a new one in its place.
  Tensor& reuse(Tensor& t, const Shape& shape, DType dtype = DType::F32) const;

  Device& device_;
  NoiseSchedule schedule_;
  Philox philox_;
  DType compute_;
  double beta_, min_snr_gamma_;
  int64_t turns_;
  std::vector<double> timestep_weights_;  // of each; empty: 1
};

}  // namespace spindle
