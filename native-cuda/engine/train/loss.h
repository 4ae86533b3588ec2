// The step between forward and backward: errors of a micro-batch become its loss, and a weight for
// each image's error in the gradient. There are two ways.
//
// - On the device, by a kernel (PairLossWeights). Nothing is read back, so forward, loss and
//   backward can be captured as one piece. A loss that is not finite shows in result(), after
//   backward.
// - On the host, by loss_terms(). The errors are read in between. It does everything that the
//   kernel cannot (safeguard, min-SNR, pairs with several timesteps), and it is the way of host
//   backends. A loss that is not finite shows in weigh(), before backward.
//
// A pair's timesteps come in turns. measure() takes each turn's errors but the last one's, then
// weigh() that one's; weigh_again() is for turns that were measured.
//
// What may go wrong: a loss that is not finite throws Diverged, which names the step.
#pragma once
#include <memory>

#include "train/micro_batch.h"
#include "train/step_results.h"

namespace spindle {

class Loss {
 public:
  virtual ~Loss() = default;
  // weigh() reads nothing back.
  virtual bool on_device() const = 0;
  // `batch.errors` and `batch.opponent_errors` become `batch.weights`. `prediction` (N, h, w, C) is
  // what the errors are of.
  virtual void weigh(const MicroBatch& batch, const Tensor& prediction) = 0;
  // Adds the errors of a turn before the last to those of its pairs.
  virtual void measure(const MicroBatch& batch, const Tensor& prediction) = 0;
  // `batch.weights` of a turn that was measured, once the last one is weighed.
  virtual void weigh_again(const MicroBatch& batch) = 0;
  // What the micro-batch gave that was weighed last, without `phases`. Waits for the device.
  virtual TrainBatchResult result(const MicroBatch& batch) = 0;
};

// On the device where it has a kernel for this objective, else on the host. `weighed`: images have
// weights of their own (min-SNR of sft).
std::unique_ptr<Loss> make_loss(Device& device, const ObjectiveOptions& objective, bool weighed);

}  // namespace spindle
