// What a step computes for the host to see. On a device it stays there until the whole step was
// asked for, and is read at once.
#pragma once
#include <vector>

#include "autograd/device.h"
#include "core/phases.h"
#include "train/objective.h"

namespace spindle {

struct TrainBatchResult {
  double loss = 0;         // adds up to the mean over the step's batch
  double loser_scale = 0;  // the same: the safeguard's lambda, 1 without one, 0 for sft
  Errors errors;
  std::vector<Phase> phases;
  bool later = false;  // apply() has the values above
};

class StepResults {
 public:
  explicit StepResults(Device& device) : device_(device) {}

  // Forgets the step before.
  void begin() {
    used_ = 0;
    batches_.clear();
  }
  // Copies of a micro-batch's values, all float64 on the device: errors of real images, then as
  // many of generated ones where the opponent's errors are given (empty: sft); `loser_scale` is
  // known already.
  void keep(const Tensor& loss,
            const Tensor& errors,
            const Tensor& opponent_errors,
            double loser_scale);
  // The micro-batches' results in their order, and `scalars` (float64) behind them: waits for the
  // device, once.
  std::vector<TrainBatchResult> read(const Tensor& scalars, std::vector<double>& scalar_values);

 private:
  struct Kept {
    int64_t images = 0;
    bool plays = false;
    double loser_scale = 0;
  };
  void append(const Tensor& values);

  Device& device_;
  Tensor values_;  // all of a step, one behind the other
  int64_t used_ = 0;
  std::vector<Kept> batches_;
};

}  // namespace spindle
