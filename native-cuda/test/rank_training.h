// Trainings of the tiny U-Net by several processes, for tests: each rank's part of four pairs, on
// any device.
#pragma once
#include <algorithm>
#include <cmath>

#include "check.h"
#include "rank_processes.h"
#include "tiny_models.h"
#include "train/trainer.h"

namespace rank_training {

using namespace spindle;

constexpr int64_t kPairs = 4;

struct Plan {
  int ranks = 1, micro_batches = 1;  // of each rank
  int64_t bucket_bytes = 4096;       // several buckets of the tiny model
  DType compute = DType::F32;
  DeviceOptions device = {.backend = "cpu", .threads = 1, .isa = "auto"};
  int steps = 4;
  int64_t timesteps_per_pair = 1;
};

inline TrainerOptions options(const Plan& plan) {
  TrainerOptions o;
  o.objective.objective = Objective::SpinLogistic;
  o.objective.timesteps_per_pair = plan.timesteps_per_pair;
  o.objective.beta = 200;  // ten times that makes a last bit of a weight 1e-4 of a loss
  o.scheduler_config = tiny::kDdim;
  o.learning_rate = {
      .base = 1e-3, .kind = ScheduleKind::Linear, .warmup_steps = 2, .total_steps = 8};
  o.max_grad_norm = 0.05;  // clips
  // A weight whose gradient is rounding only stays where it is; Adam would move it by a part of the
  // learning rate, one way or the other.
  o.adamw.epsilon = 1e-6;
  o.ema_decay = 0.9;
  o.seed = 11;
  o.compute = plan.compute;
  o.bucket_bytes = plan.bucket_bytes;
  return o;
}

inline DeviceOptions cpu_options() { return {.backend = "cpu", .threads = 1, .isa = "auto"}; }

inline std::unique_ptr<Trainer> trainer(Device& device,
                                        const Plan& plan,
                                        std::unique_ptr<Collective> ranks) {
  auto unet = tiny::unet(device, {.compute = plan.compute, .trainable = true});
  auto opponent = copy_unet(*unet);
  return std::make_unique<Trainer>(std::move(unet), std::move(opponent), options(plan),
                                   std::move(ranks));
}

inline TrainBatch batch(Device& device, int64_t step, int64_t offset, int64_t pairs, bool last) {
  auto rows = [&](const Shape& shape, uint32_t number) {
    std::vector<int64_t> dims = shape.dims();
    int64_t size = shape.numel() / dims[0];
    dims[0] = pairs;
    return tiny::random(device, shape, number + 10 * uint32_t(step))
        .slice(offset * size, Shape(dims));
  };
  return {.step = step,
          .offset = offset,
          .step_batch_size = kPairs,
          .last = last,
          .real = rows({kPairs, 4, 8, 8}, 1),
          .generated = rows({kPairs, 4, 8, 8}, 2),
          .text = rows({kPairs, 5, 12}, 3)};
}

// This rank's part of a step's loss and the whole step's gradient norm.
inline std::pair<float, float> step(Trainer& t, const Plan& plan, int rank, int64_t k) {
  int64_t share = kPairs / plan.ranks, size = share / plan.micro_batches;
  double loss = 0;
  for (int m = 0; m < plan.micro_batches; ++m) {
    TrainBatch b =
        batch(t.unet().device, k, rank * share + m * size, size, m + 1 == plan.micro_batches);
    b.later = true;  // as the services ask for it
    TrainBatchResult result = t.accumulate(b, nullptr);
    if (!result.later) loss += result.loss;
  }
  TrainStepResult applied = t.apply(k);
  for (const TrainBatchResult& result : applied.batches) loss += result.loss;
  return {float(loss), float(applied.grad_norm)};
}

// What a rank ends with: losses and norms of every step, then the weights.
struct Result {
  std::vector<float> losses, norms, weights;
};

inline std::vector<ranks::Outcome> run(
    const Plan& plan,
    const std::function<void(Trainer&, int rank, int64_t step)>& before = {}) {
  ranks::TemporaryFolder folder;
  return ranks::run(plan.ranks, [&](int rank) {
    Device device(plan.device);
    auto t =
        trainer(device, plan, connect_ranks(ranks::group(folder.path, rank, plan.ranks), nullptr));
    t->broadcast_state(nullptr);
    std::vector<float> losses, norms;
    for (int64_t k = 0; k < plan.steps; ++k) {
      if (before) before(*t, rank, k);
      auto [loss, norm] = step(*t, plan, rank, k);
      losses.push_back(loss);
      norms.push_back(norm);
    }
    t->verify_ranks(nullptr);
    return ranks::bytes_of(losses) + ranks::bytes_of(norms) +
           ranks::bytes_of(tiny::floats(device, t->unet().store.master()));
  });
}

// Losses add up over the ranks; the rest must be the same on all of them.
inline Result together(const std::vector<ranks::Outcome>& outcomes, int steps = 4) {
  Result result;
  for (const ranks::Outcome& o : outcomes) {
    std::vector<float> values = ranks::floats_of(o.text);
    if (values.size() < size_t(2 * steps)) throw Error(Code::Internal, o.text);
    auto at = values.begin();
    std::vector<float> losses(at, at + steps), norms(at + steps, at + 2 * steps),
        weights(at + 2 * steps, values.end());
    if (result.losses.empty()) {
      result = {losses, norms, weights};
      continue;
    }
    for (size_t k = 0; k < losses.size(); ++k) result.losses[k] += losses[k];
    CHECK(norms == result.norms);
    CHECK(weights == result.weights);
  }
  return result;
}

inline double largest_difference(const std::vector<float>& a, const std::vector<float>& b) {
  double largest = a.size() == b.size() ? 0 : INFINITY;
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i)
    largest = std::max(
        largest, std::abs(double(a[i]) - double(b[i])) / std::max(1e-2, std::abs(double(b[i]))));
  return largest;
}

}  // namespace rank_training
