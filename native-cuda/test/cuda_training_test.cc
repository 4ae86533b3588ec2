// Training on the device beyond its steps' values: adapters, how often the host waits, batches that
// come early.
#include "bench/profile.h"
#include "check.h"
#include "cuda_device.h"
#include "temporary.h"
#include "tiny_models.h"
#include "tiny_training.h"
#include "train/trainer.h"

using namespace spindle;
using tiny::distance;

namespace {

Device cpu() { return Device({.backend = "cpu", .threads = 2, .isa = "auto"}); }

TrainerOptions options(Objective objective, DType compute) {
  TrainerOptions o;
  o.objective.objective = objective;
  o.compute = compute;
  o.scheduler_config = tiny::kDdim;
  o.learning_rate = {.base = 1e-2};
  o.ema_decay = 0.9;
  o.seed = 11;
  return o;
}

TrainerOptions adapters(Objective objective, DType compute) {
  TrainerOptions o = options(objective, compute);
  o.lora = {.rank = 3, .alpha = 6, .targets = {"to_q", "to_k", "to_v", "to_out.0"}};
  return o;
}

// The tiny U-Net's weights as a file, so that trainers load it as they do a released one.
struct BaseFile {
  BaseFile() {
    Device device = cpu();
    auto unet = tiny::unet(device, {.trainable = true});
    save_parameters(file.path, {{"", &unet->store, unet->store.master()}});
  }
  ModelSource source(const std::vector<AdapterSource>& adapters = {}) const {
    return {tiny::kUnet, {file.path}, "tiny", adapters};
  }
  TemporaryFile file;
};

void step(Trainer& t,
          const TrainerOptions& o,
          int64_t k,
          const std::vector<int64_t>& cut = {2, 1}) {
  int64_t whole = 0, offset = 0;
  for (int64_t n : cut) whole += n;
  for (int64_t n : cut) {
    t.accumulate(tiny::batch(t.unet().device, o, k, offset, n, whole, uint32_t(10 * k + 1)),
                 nullptr);
    offset += n;
  }
  t.apply(k);
}

std::vector<float> trained(Trainer& t) {
  return tiny::floats(t.unet().device, t.trained().master());
}

}  // namespace

TEST("adapters trained on the device are the cpu's, and what is exported is too") {
  BaseFile base;
  TrainerOptions o = adapters(Objective::SpinLogistic, DType::F32);
  Device device(cuda_options()), host = cpu();
  Trainer t(device, base.source(), nullptr, o), expected(host, base.source(), nullptr, o);
  std::vector<float> before = trained(t);
  CHECK(before == trained(expected));
  for (int64_t k = 0; k < 3; ++k) {
    step(t, o, k);
    step(expected, o, k);
  }
  CHECK_THAT(distance(trained(t), trained(expected)) < 1e-3,
             distance(trained(t), trained(expected)));
  CHECK(distance(trained(t), before) > 1e-2);
  // The next iteration goes on from the file that this one left, and plays against it.
  TemporaryFile ours, theirs, merged, same;
  t.export_adapters(ours.path, true);
  expected.export_adapters(theirs.path, true);
  auto next = [&](Device& on, const std::string& path) {
    ModelSource from = base.source({{path, 1}});
    Trainer trainer(on, from, &from, o);
    step(trainer, o, 0, {1});
    return trained(trainer);
  };
  std::vector<float> on_device = next(device, ours.path), on_host = next(host, theirs.path);
  CHECK_THAT(distance(on_device, on_host) < 2e-3, distance(on_device, on_host));
  // The whole U-Net with the adapters added.
  t.export_weights(merged.path, false);
  expected.export_weights(same.path, false);
  auto whole = [&](const std::string& path) {
    return tiny::floats(
        load_unet(host, {tiny::kUnet, {path}, "merged", {}}, {.trainable = true})->store.master());
  };
  CHECK_THAT(distance(whole(merged.path), whole(same.path)) < 1e-4,
             distance(whole(merged.path), whole(same.path)));
  CHECK(distance(whole(merged.path), whole(base.file.path)) > 1e-3);
}

TEST(
    "adapters that are captured and replayed have the bytes of those that are not, and resume to "
    "the same bytes") {
  BaseFile base;
  TrainerOptions o = adapters(Objective::SpinLogistic, DType::BF16);
  Device device(cuda_options()), plain(cuda_options()), later(cuda_options());
  Trainer captured(device, base.source(), nullptr, o), eager(plain, base.source(), nullptr, o),
      resumed(later, base.source(), nullptr, o);
  {
    DeviceProfile profile(plain);  // nothing is captured while it lives
    for (int64_t k = 0; k < 4; ++k) step(eager, o, k, {1, 1});
  }
  TemporaryFile state;
  for (int64_t k = 0; k < 4; ++k) {
    step(captured, o, k, {1, 1});
    if (k == 2) captured.save_state(state.path, {});
  }
  CHECK(trained(captured) == trained(eager));
  resumed.load_state(state.path);
  step(resumed, o, 3, {1, 1});
  CHECK(trained(resumed) == trained(captured));
}

namespace {

// One step whose micro-batches leave their results for its end, where `later`; all that they gave.
std::vector<TrainBatchResult> told(Trainer& t, const TrainerOptions& o, int64_t k, bool later) {
  std::vector<TrainBatchResult> results;
  for (int64_t offset : {0, 1}) {
    TrainBatch b = tiny::batch(t.unet().device, o, k, offset, 1, 2, uint32_t(10 * k + 1));
    b.later = later;
    results.push_back(t.accumulate(b, nullptr));
    CHECK(results.back().later == later);
  }
  TrainStepResult applied = t.apply(k);
  CHECK(applied.batches.size() == (later ? 2U : 0U));
  return later ? applied.batches : results;
}

}  // namespace

TEST(
    "a step that is told at its end gives what one does that is told at once, and waits for the "
    "device once") {
  for (Objective objective : {Objective::SpinLogistic, Objective::Sft})
    check::each(cat("objective ", int(objective)), [&] {
      TrainerOptions o = options(objective, DType::F32);
      Device device(cuda_options()), other(cuda_options());
      auto t = tiny::trainer(device, o), now = tiny::trainer(other, o);
      auto* waits =
          on_real_device() ? nullptr : emulator_function<int64_t (*)()>("spindle_emulator_waits");
      for (int64_t k = 0; k < 3; ++k) {
        int64_t before = waits ? waits() : 0;
        std::vector<TrainBatchResult> a = told(*t, o, k, true);
        if (waits) CHECK_EQUAL(waits() - before, int64_t(1));
        std::vector<TrainBatchResult> b = told(*now, o, k, false);
        for (size_t i = 0; i < a.size(); ++i) {
          CHECK(a[i].loss == b[i].loss && a[i].loser_scale == b[i].loser_scale);
          CHECK(a[i].errors.real == b[i].errors.real &&
                a[i].errors.generated == b[i].errors.generated);
          CHECK(a[i].errors.opponent_real == b[i].errors.opponent_real &&
                a[i].errors.opponent_generated == b[i].errors.opponent_generated);
        }
      }
      CHECK(trained(*t) == trained(*now));
    });
}

TEST("what is not finite is told at the step's end, which leaves the weights as they were") {
  TrainerOptions o = options(Objective::SpinLogistic, DType::F32);
  Device device(cuda_options());
  auto t = tiny::trainer(device, o);
  told(*t, o, 0, true);
  std::vector<float> before = trained(*t);
  TrainBatch broken = tiny::batch(device, o, 1, 0, 2, 2);
  broken.later = true;
  float nan = NAN;
  device.upload(broken.real.slice(5, {1}), &nan);
  CHECK(t->accumulate(broken, nullptr).later);
  CHECK(check::contains(check::message([&] { t->apply(1); }),
                        "[train] step 1: expected a finite loss, got "));
  CHECK(trained(*t) == before);
  told(*t, o, 1, true);
  CHECK(trained(*t) != before);
}

TEST("timesteps that weigh, and pairs with several, train as on the cpu") {
  for (int64_t turns : {1, 3})
    check::each(cat("k ", turns), [&] {
      TrainerOptions o = options(Objective::SpinLogistic, DType::F32);
      o.objective.timesteps_per_pair = turns;
      o.objective.timestep_weight = TimestepWeight::Paper;
      o.objective.beta = 20;
      o.learning_rate = {.base = 1e-3};
      Device device(cuda_options()), host = cpu();
      auto t = tiny::trainer(device, o), expected = tiny::trainer(host, o);
      for (int64_t k = 0; k < 4; ++k) {
        double loss = 0, of_host = 0;
        // One timestep is weighed on the device, and told at the step's end.
        std::vector<TrainBatchResult> results, same;
        for (int64_t offset : {0, 1}) {
          for (Trainer* each : {t.get(), expected.get()}) {
            TrainBatch b =
                tiny::batch(each->unet().device, o, k, offset, 1, 2, uint32_t(10 * k + 1));
            b.later = true;
            TrainBatchResult result = each->accumulate(b, nullptr);
            CHECK_EQUAL(result.later, each == t.get() && turns == 1);
            if (!result.later) (each == t.get() ? results : same).push_back(result);
          }
        }
        TrainStepResult applied = t->apply(k);
        expected->apply(k);
        if (turns == 1) results = applied.batches;
        CHECK_EQUAL(results.size(), size_t(2));
        for (size_t i = 0; i < results.size(); ++i) {
          loss += results[i].loss;
          of_host += same[i].loss;
          CHECK_THAT(std::abs(results[i].errors.real[0] - same[i].errors.real[0]) <
                         1e-3 * same[i].errors.real[0],
                     results[i].errors.real[0], " and ", same[i].errors.real[0]);
        }
        CHECK_THAT(std::abs(loss - of_host) < 2e-3 * of_host, loss, " and ", of_host);
      }
      CHECK_THAT(distance(trained(*t), trained(*expected)) < 1e-3,
                 distance(trained(*t), trained(*expected)));
    });
}
