// Data-parallel training: real processes over sockets beside one process with the whole batch.
#include <algorithm>
#include <cmath>

#include "check.h"
#include "rank_processes.h"
#include "tiny_models.h"
#include "train/trainer.h"

using namespace spindle;

namespace {

constexpr int64_t kPairs = 4;

struct Plan {
  int ranks = 1, micro_batches = 1;  // of each rank
  int64_t bucket_bytes = 4096;       // several buckets of the tiny model
  DType compute = DType::F32;
};

TrainerOptions options(const Plan& plan) {
  TrainerOptions o;
  o.objective.objective = Objective::SpinLogistic;
  o.scheduler_config = tiny::kDdim;
  o.learning_rate = {.base = 1e-3, .kind = ScheduleKind::Linear, .warmup_steps = 2, .total_steps = 8};
  o.max_grad_norm = 0.05;  // clips
  o.ema_decay = 0.9;
  o.seed = 11;
  o.compute = plan.compute;
  o.bucket_bytes = plan.bucket_bytes;
  return o;
}

Device cpu() { return Device({.backend = "cpu", .threads = 1, .isa = "auto"}); }

std::unique_ptr<Trainer> trainer(Device& device, const Plan& plan, std::unique_ptr<Collective> ranks) {
  auto unet = tiny::unet(device, {.compute = plan.compute, .trainable = true});
  auto opponent = copy_unet(*unet);
  return std::make_unique<Trainer>(std::move(unet), std::move(opponent), options(plan), std::move(ranks));
}

TrainBatch batch(Device& device, int64_t step, int64_t offset, int64_t pairs, bool last) {
  auto rows = [&](const Shape& shape, uint32_t number) {
    std::vector<int64_t> dims = shape.dims();
    int64_t size = shape.numel() / dims[0];
    dims[0] = pairs;
    return tiny::random(device, shape, number + 10 * uint32_t(step)).slice(offset * size, Shape(dims));
  };
  return {.step = step, .offset = offset, .step_batch_size = kPairs, .last = last, .real = rows({kPairs, 4, 8, 8}, 1), .generated = rows({kPairs, 4, 8, 8}, 2), .text = rows({kPairs, 5, 12}, 3)};
}

// This rank's part of a step's loss and the whole step's gradient norm.
std::pair<float, float> step(Trainer& t, const Plan& plan, int rank, int64_t k) {
  int64_t share = kPairs / plan.ranks, size = share / plan.micro_batches;
  double loss = 0;
  for (int m = 0; m < plan.micro_batches; ++m) loss += t.accumulate(batch(t.unet().device, k, rank * share + m * size, size, m + 1 == plan.micro_batches), nullptr).loss;
  return {float(loss), float(t.apply(k).grad_norm)};
}

// What a rank ends with: losses and norms of every step, then the weights.
struct Result {
  std::vector<float> losses, norms, weights;
};
constexpr int64_t kSteps = 4;

std::vector<ranks::Outcome> run(const Plan& plan, const std::function<void(Trainer&, int rank, int64_t step)>& before = {}) {
  ranks::TemporaryFolder folder;
  return ranks::run(plan.ranks, [&](int rank) {
    Device device = cpu();
    auto t = trainer(device, plan, connect_ranks(ranks::group(folder.path, rank, plan.ranks), nullptr));
    t->share_state(nullptr);
    std::vector<float> losses, norms;
    for (int64_t k = 0; k < kSteps; ++k) {
      if (before) before(*t, rank, k);
      auto [loss, norm] = step(*t, plan, rank, k);
      losses.push_back(loss);
      norms.push_back(norm);
    }
    t->verify_ranks(nullptr);
    return ranks::bytes_of(losses) + ranks::bytes_of(norms) + ranks::bytes_of(tiny::floats(t->unet().store.master()));
  });
}

// Losses add up over the ranks; the rest must be the same on all of them.
Result together(const std::vector<ranks::Outcome>& outcomes) {
  Result result;
  for (const ranks::Outcome& o : outcomes) {
    std::vector<float> values = ranks::floats_of(o.text);
    if (values.size() < 2 * kSteps) throw Error(Code::Internal, o.text);
    auto at = values.begin();
    std::vector<float> losses(at, at + kSteps), norms(at + kSteps, at + 2 * kSteps), weights(at + 2 * kSteps, values.end());
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

double largest_difference(const std::vector<float>& a, const std::vector<float>& b) {
  double largest = a.size() == b.size() ? 0 : INFINITY;
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) largest = std::max(largest, std::abs(double(a[i]) - double(b[i])) / std::max(1e-2, std::abs(double(b[i]))));
  return largest;
}

}  // namespace

TEST("1 rank x 4 pairs, 2 x 2, 1 x 2 x 2, 2 x 2 x 1 and 4 x 1 have the same curves") {
  for (DType compute : {DType::F32, DType::BF16}) {
    Result whole = together(run({.ranks = 1, .compute = compute}));
    CHECK(whole.losses[0] != whole.losses[3]);
    for (auto [world, micro] : std::vector<std::pair<int, int>>{{2, 1}, {1, 2}, {2, 2}, {4, 1}})
      check::each(cat(dtype_name(compute), " ", world, " ranks, ", micro, " micro-batches"), [&] {
        Result got = together(run({.ranks = world, .micro_batches = micro, .compute = compute}));
        double losses = largest_difference(got.losses, whole.losses), norms = largest_difference(got.norms, whole.norms), weights = largest_difference(got.weights, whole.weights);
        double tolerance = compute == DType::F32 ? 1e-4 : 5e-2;
        CHECK_THAT(losses < tolerance && norms < tolerance, losses, " and ", norms);
        CHECK_THAT(weights < 10 * tolerance, weights);
      });
  }
}

TEST("the same run gives the same bytes again, whatever the size of its buckets") {
  Result first = together(run({.ranks = 3 - 1, .micro_batches = 2}));
  for (int64_t bytes : {int64_t(1), int64_t(4096), int64_t(1) << 30}) {
    Result again = together(run({.ranks = 2, .micro_batches = 2, .bucket_bytes = bytes}));
    CHECK(again.weights == first.weights);
    CHECK(again.norms == first.norms);
  }
}

TEST("gradients leave while backward goes on, and cover every weight") {
  ranks::TemporaryFolder folder;
  auto outcomes = ranks::run(2, [&](int rank) {
    Device device = cpu();
    auto unet = tiny::unet(device, {.trainable = true});
    auto ranks = connect_ranks(ranks::group(folder.path, rank, 2), nullptr);
    GradientBuckets buckets(unet->store, *ranks, 4096);
    std::string text;
    for (int pass = 0; pass < 2; ++pass) {
      Tape tape(device, true);
      UNetInputs inputs{tiny::random(device, {1, 8, 8, 4}, 1), {10}, tiny::random(device, {1, 5, 12}, 2)};
      Tensor y = unet->model.forward(tape, inputs);
      unet->store.begin_gradients();
      buckets.begin(true);
      tape.backward(y, tiny::random(device, y.shape(), 3), [&] { buckets.node_done(); });
      std::vector<float> own = tiny::floats(unet->store.gradient());
      buckets.end();
      ranks->wait(nullptr);
      // Both ranks had the same gradients: each sum is twice its own. What had left by then may be summed already.
      std::vector<float> sums = tiny::floats(unet->store.gradient());
      bool twice = pass == 1 || std::equal(own.begin(), own.end(), sums.begin(), [](float a, float b) { return 2 * a == b; });
      text += cat(pass, ": ", buckets.overlapped() > buckets.count() / 2 ? "overlapped" : "not overlapped", twice ? "" : ", not summed", "; ");
      static std::vector<float> first;
      if (pass == 0) first = sums;
      else text += sums == first ? "same sums" : "other sums";
    }
    return text;
  });
  for (const ranks::Outcome& o : outcomes) CHECK_EQUAL(o.text, std::string("0: not overlapped; 1: overlapped; same sums"));
}

TEST("state loaded by rank 0 is every rank's, also with another number of ranks") {
  ranks::TemporaryFolder folder;
  std::string state = folder.path + "/state.safetensors";
  auto train = [&](int world, int64_t from, int64_t to, bool load) {
    Plan plan{.ranks = world};
    return ranks::run(world, [&, plan](int rank) {
      Device device = cpu();
      auto t = trainer(device, plan, connect_ranks(ranks::group(folder.path, rank, world), nullptr));
      if (load && rank == 0) t->load_state(state);
      t->share_state(nullptr);
      for (int64_t k = from; k < to; ++k) step(*t, plan, rank, k);
      if (rank == 0 && !load) t->save_state(state, {});
      return ranks::bytes_of(tiny::floats(t->unet().store.master()));
    });
  };
  std::string undisturbed = train(2, 0, 4, false)[0].text;
  train(2, 0, 2, false);
  auto resumed = train(2, 2, 4, true);
  CHECK(resumed[0].text == undisturbed);
  CHECK(resumed[1].text == undisturbed);
  auto alone = train(1, 2, 4, true);
  CHECK(alone[0].text.size() == undisturbed.size());
  CHECK(largest_difference(ranks::floats_of(alone[0].text), ranks::floats_of(undisturbed)) < 1e-3);
}

TEST("ranks whose weights went apart say so") {
  auto outcomes = run({.ranks = 2}, [](Trainer& t, int rank, int64_t k) {
    if (rank == 1 && k == 3) t.unet().store.master().f32()[0] = std::nextafter(t.unet().store.master().f32()[0], 1.0f);
  });
  for (const ranks::Outcome& o : outcomes) CHECK_THAT(o.text.starts_with("INTERNAL: [train] ranks: expected rank 1 of 2 to hold the same state as rank 0"), o.text);
}

TEST("a rank that fails takes no step, and neither do the others") {
  auto outcomes = run({.ranks = 2}, [](Trainer& t, int rank, int64_t k) {
    if (rank == 1 && k == 2) {
      TrainBatch broken = batch(t.unet().device, k, 2, 2, true);
      broken.real.f32()[0] = NAN;
      t.accumulate(broken, nullptr);
    }
  });
  CHECK_THAT(outcomes[1].text.starts_with("DIVERGED: [train] step 2"), outcomes[1].text);
  CHECK_EQUAL(outcomes[0].text, std::string("UNAVAILABLE: [ranks] rank 1 of 2 ended its connection"));
}

TEST("a step is applied once its last micro-batch is in, and takes none after it") {
  auto outcomes = run({.ranks = 1}, [](Trainer& t, int, int64_t k) {
    if (k > 0) return;
    t.accumulate(batch(t.unet().device, 0, 0, 2, false), nullptr);
    CHECK_THROWS(t.apply(0), Code::InvalidArgument);
    t.accumulate(batch(t.unet().device, 0, 2, 2, true), nullptr);
    CHECK_THROWS(t.accumulate(batch(t.unet().device, 0, 0, 2, true), nullptr), Code::InvalidArgument);
    if (check::state().failing) throw Error(Code::Internal, "a check failed");
    t.apply(0);
  });
  CHECK_THAT(outcomes[0].text.size() > 1000, outcomes[0].text);
}
