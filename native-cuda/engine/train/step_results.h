// What a step computes for the host to see. On a device it stays there until the whole step was
// asked for, and is read at once. What may go wrong: a value that is not finite (Diverged).
#pragma once
#include <vector>

#include "autograd/device.h"
#include "core/phases.h"
#include "train/micro_batch.h"
#include "train/objective.h"

namespace spindle {

struct TrainBatchResult {
  double loss = 0;         // adds up to the mean over the step's batch
  double loser_scale = 0;  // the same: the safeguard's lambda, 1 without one, 0 for sft
  Errors errors = {};
  std::vector<Phase> phases = {};
  bool later = false;  // apply() has the values above
};

// Throws Diverged, which names the step, `what` the value is, and the value.
void expect_finite(int64_t step, const char* what, double value);

class StepResults {
 public:
  explicit StepResults(Device& device) : device_(device) {}

  // Forgets the step before.
  void begin() {
    used_ = 0;
    batches_.clear();
  }
  // Copies a micro-batch's values to the values of the step, on the device. Returns what is known
  // already: that the rest comes later.
  TrainBatchResult keep(const MicroBatch& batch);
  // The micro-batches' results in their order, and `scalars` (float64) behind them: waits for the
  // device, once.
  std::vector<TrainBatchResult> read(const Tensor& scalars, std::vector<double>& scalar_values);

 private:
  struct Kept {
    int64_t pairs = 0;
    bool plays = false;
    double loser_scale = 0;
    std::vector<double> weights = {};  // of the pairs' errors; empty: 1
  };
  void append(const Tensor& values);

  Device& device_;
  // (n) float64, of a step, one behind the other: of each micro-batch the loss, errors, opponent's
  // errors. The first used_ count.
  Tensor values_;
  int64_t used_ = 0;
  std::vector<Kept> batches_;
};

}  // namespace spindle
