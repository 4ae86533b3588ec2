#include "train/step_results.h"

namespace spindle {

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

void StepResults::keep(const Tensor& loss,
                       const Tensor& errors,
                       const Tensor& opponent_errors,
                       double loser_scale) {
  append(loss);
  append(errors);
  if (opponent_errors) append(opponent_errors);
  batches_.push_back({errors.numel(), bool(opponent_errors), loser_scale});
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
    int64_t pairs = kept.plays ? kept.images / 2 : kept.images;
    r.errors.real = take(pairs);
    if (kept.plays) {
      r.errors.generated = take(pairs);
      r.errors.opponent_real = take(pairs);
      r.errors.opponent_generated = take(pairs);
    }
    results.push_back(std::move(r));
  }
  scalar_values = take(scalars.numel());
  begin();
  return results;
}

}  // namespace spindle
