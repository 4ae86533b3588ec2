#include "train/step_results.h"

#include <algorithm>
#include <cmath>

namespace spindle {

void expect_finite(int64_t step, const char* what, double value) {
  if (!std::isfinite(value))
    throw Error(Code::Diverged,
                cat("[train] step ", step, ": expected a finite ", what, ", got ", value));
}

void StepResults::append(const Tensor& values) {
  int64_t count = values.numel(), held = values_ ? values_.numel() : 0;
  if (used_ + count > held) {
    Tensor larger = device_.empty({std::max<int64_t>(2 * held, used_ + count + 64)}, DType::F64);
    if (used_ > 0) device_.memory().copy(larger.slice(0, {used_}), values_.slice(0, {used_}));
    values_ = larger;
  }
  device_.memory().copy(values_.slice(used_, {count}), values);
  used_ += count;
}

TrainBatchResult StepResults::keep(const MicroBatch& batch) {
  append(batch.loss);
  append(batch.errors);
  if (batch.plays()) append(batch.opponent_errors);
  batches_.push_back({batch.pairs, batch.plays(), batch.full_loser_scale(), batch.image_weights});
  return {.loser_scale = batch.full_loser_scale(), .later = true};
}

std::vector<TrainBatchResult> StepResults::read(const Tensor& scalars,
                                                std::vector<double>& scalar_values) {
  append(scalars);
  std::vector<double> all = device_.download<double>(values_.slice(0, {used_}));
  auto at = all.begin();
  auto take = [&](int64_t count) {
    std::vector<double> values(at, at + count);
    at += count;
    return values;
  };
  std::vector<TrainBatchResult> results;
  for (const Kept& kept : batches_) {
    TrainBatchResult r;
    r.loss = *at++;
    r.loser_scale = kept.loser_scale;
    r.errors.real = take(kept.pairs);
    if (kept.plays) {
      r.errors.generated = take(kept.pairs);
      r.errors.opponent_real = take(kept.pairs);
      r.errors.opponent_generated = take(kept.pairs);
      weigh_errors(r.errors, kept.weights);
    }
    results.push_back(std::move(r));
  }
  scalar_values = take(scalars.numel());
  begin();
  return results;
}

}  // namespace spindle
