// Whole models on the CUDA backend: fixtures, training, sampling; as it is the first time, captured
// and replayed.
#include <cstring>
#include <filesystem>

#include "bench/profile.h"
#include "check.h"
#include "cuda_device.h"
#include "cuda_emulator/memory.h"
#include "models/inference.h"
#include "parity/parity.h"
#include "sample/sample.h"
#include "temporary.h"
#include "tiny_models.h"
#include "tiny_training.h"
#include "train/trainer.h"

using namespace spindle;
using tiny::distance;
using tiny::trainer;

namespace {

TrainerOptions options(Objective objective, DType compute) {
  TrainerOptions o;
  o.objective.objective = objective;
  o.compute = compute;
  o.scheduler_config = tiny::kDdim;
  o.learning_rate = {
      .base = 1e-3, .kind = ScheduleKind::Linear, .warmup_steps = 2, .total_steps = 8};
  o.ema_decay = 0.9;
  o.seed = 11;
  return o;
}

// Every step has values of its own, so that a replay of the step before would show.
TrainBatch batch(Device& device,
                 const TrainerOptions& o,
                 int64_t step,
                 int64_t offset,
                 int64_t pairs,
                 int64_t whole) {
  return tiny::batch(device, o, step, offset, pairs, whole, uint32_t(10 * step + 1));
}

// The sizes of a step's micro-batches.
using Cut = std::vector<int64_t>;

TrainBatchResult step(Trainer& t,
                      Device& device,
                      const TrainerOptions& o,
                      int64_t k,
                      const Cut& cut) {
  int64_t whole = 0, offset = 0;
  for (int64_t n : cut) whole += n;
  TrainBatchResult sum;
  for (int64_t n : cut) {
    TrainBatchResult r = t.accumulate(batch(device, o, k, offset, n, whole), nullptr);
    sum.loss += r.loss;
    sum.errors.real.insert(sum.errors.real.end(), r.errors.real.begin(), r.errors.real.end());
    offset += n;
  }
  t.apply(k);
  return sum;
}

std::vector<float> weights(Trainer& t) {
  return tiny::floats(t.unet().device, t.unet().store.master());
}

SampleRequest sample_request(Device& device, int64_t steps) {
  SampleRequest r;
  r.cond = tiny::random(device, {5, 7, 12}, 1);
  r.uncond = tiny::random(device, {1, 7, 12}, 2);
  r.seeds = {1, 2, 3, 4, 5};  // two passes of the same shape and one of another
  r.height = r.width = 4;
  r.scheduler_config = tiny::kDdim;
  r.steps = steps;
  r.guidance_scale = 3;
  r.batch_size = 2;
  return r;
}

SampleRequest one_image(Device& device, int64_t steps) {
  SampleRequest r = sample_request(device, steps);
  r.cond = r.cond.slice(0, {1, 7, 12});
  r.seeds = {1};
  return r;
}

}  // namespace

TEST("fixtures agree") {
  Device device(cuda_options());
  std::filesystem::path fixtures =
      std::filesystem::path(__FILE__).parent_path() / ".." / ".." / "test" / "fixtures";
  // Training steps are recorded in float32 only. All on a device; the emulated one is slow.
  std::vector<const char*> names = {"unet-sd15", "vae", "clip-model", "clip-text-gelu",
                                    "spin-hinge"};
  if (on_real_device())
    names.insert(names.end(),
                 {"unet-sd21", "unet-text", "sft", "spin-logistic", "spin-v-prediction"});
  for (DType compute : {DType::F32, DType::BF16})
    for (const char* name : names)
      check::each(cat(name, " in ", dtype_name(compute)), [&] {
        std::vector<ParityLine> lines = run_parity((fixtures / name).string(), device, compute);
        if (lines.empty())
          std::printf("%s states no bounds in %s: skipped\n", name, dtype_name(compute));
        for (const ParityLine& line : lines)
          CHECK_THAT(line.ok, line.tensor, ": relative error ", line.relL2, ", largest difference ",
                     line.maxAbs);
      });
}

// Steps 0 and 1 are done as they are and captured; then shapes change to and fro, and a step has
// several micro-batches.
const std::vector<Cut> kSteps = {{2}, {2}, {2}, {1}, {2}, {2, 2}, {2, 2}, {1, 1, 1}};

TEST("training that is captured and replayed gives the bytes of training that is not") {
  for (auto [compute, objective] :
       {std::pair{DType::BF16, Objective::SpinLogistic}, std::pair{DType::F32, Objective::Sft}})
    check::each(cat(dtype_name(compute), ", objective ", int(objective)),
                [&, compute = compute, objective = objective] {
                  TrainerOptions o = options(objective, compute);
                  Device device(cuda_options()), plain(cuda_options());
                  auto captured = trainer(device, o), eager = trainer(plain, o);
                  DeviceProfile profile(plain);  // nothing is captured while it lives
                  for (size_t k = 0; k < kSteps.size(); ++k) {
                    TrainBatchResult a = step(*captured, device, o, int64_t(k), kSteps[k]),
                                     b = step(*eager, plain, o, int64_t(k), kSteps[k]);
                    CHECK_THAT(a.loss == b.loss && a.errors.real == b.errors.real, "step ", k,
                               ": losses ", a.loss, " and ", b.loss);
                  }
                  CHECK(weights(*captured) == weights(*eager));
                });
}

TEST("training agrees with the cpu's") {
  for (Objective objective : {Objective::SpinLogistic, Objective::SpinIpo, Objective::Sft})
    check::each(cat("objective ", int(objective)), [&] {
      TrainerOptions o = options(objective, DType::F32);
      Device device(cuda_options()), cpu({.backend = "cpu", .threads = 2, .isa = "auto"});
      auto t = trainer(device, o), expected = trainer(cpu, o);
      std::vector<float> before = weights(*t);
      CHECK(before == weights(*expected));
      for (int64_t k = 0; k < 4; ++k) {
        double loss = step(*t, device, o, k, {2, 1}).loss,
               same = step(*expected, cpu, o, k, {2, 1}).loss;
        CHECK_THAT(std::abs(loss - same) < 1e-3 * std::max(1.0, std::abs(same)), "step ", k, ": ",
                   loss, " and ", same);
      }
      CHECK_THAT(distance(weights(*t), weights(*expected)) < 2e-4,
                 distance(weights(*t), weights(*expected)));
      CHECK(distance(weights(*t), before) > 1e-3);
    });
}

TEST("the host touches no device memory") {
  if (on_real_device()) return;  // it would have crashed before
  Device device(cuda_options());
  auto* guard = emulator_function<void (*)(bool)>("spindle_emulator_guard");
  guard(true);
  TrainerOptions o = options(Objective::SpinLogistic, DType::BF16);
  auto t = trainer(device, o);
  for (int64_t k = 0; k < 3; ++k) step(*t, device, o, k, {1});
  sample(t->unet(), one_image(device, 3), nullptr, nullptr);
  guard(false);
}

TEST("an objective without a kernel of its own is computed between forward and backward") {
  TrainerOptions o = options(Objective::SpinLogistic, DType::F32);
  o.objective.safeguard = 0.5;
  Device device(cuda_options()), cpu({.backend = "cpu", .threads = 2, .isa = "auto"});
  auto t = trainer(device, o), expected = trainer(cpu, o);
  for (int64_t k = 0; k < 2; ++k) {
    step(*t, device, o, k, {2});
    step(*expected, cpu, o, k, {2});
  }
  CHECK_THAT(distance(weights(*t), weights(*expected)) < 2e-4,
             distance(weights(*t), weights(*expected)));
}

TEST("training resumed from a saved state is bit for bit the undisturbed one") {
  for (DType compute : {DType::F32, DType::BF16}) {
    TrainerOptions o = options(Objective::SpinLogistic, compute);
    Device device(cuda_options()), later(cuda_options());
    auto undisturbed = trainer(device, o), stopped = trainer(device, o),
         resumed = trainer(later, o);
    TemporaryFile state;
    for (int64_t k = 0; k < 5; ++k) step(*undisturbed, device, o, k, {2});
    for (int64_t k = 0; k < 3; ++k) step(*stopped, device, o, k, {2});
    stopped->save_state(state.path, {{"step", "3"}});
    std::string algorithms = device.kernels().algorithms();
    CHECK(!algorithms.empty());
    std::map<std::string, std::string> metadata = resumed->load_state(state.path);
    CHECK(metadata == (std::map<std::string, std::string>{{"step", "3"}}));
    CHECK_EQUAL(later.kernels().algorithms(), algorithms);
    for (int64_t k = 3; k < 5; ++k) step(*resumed, later, o, k, {2});
    CHECK(weights(*resumed) == weights(*undisturbed));
  }
}

TEST("what is not finite stops the step and leaves the weights as they were") {
  TrainerOptions o = options(Objective::SpinLogistic, DType::F32);
  Device device(cuda_options());
  auto t = trainer(device, o);
  for (int64_t k = 0; k < 3; ++k) step(*t, device, o, k, {2});
  std::vector<float> before = weights(*t);
  TrainBatch broken = batch(device, o, 3, 0, 2, 2);
  float nan = NAN;
  device.upload(broken.real.slice(5, {1}), &nan);
  CHECK_THROWS(t->accumulate(broken, nullptr), Code::Diverged);
  CHECK_THROWS(t->apply(3), Code::InvalidArgument);
  CHECK(weights(*t) == before);
  t->accumulate(batch(device, o, 3, 0, 2, 2), nullptr);
  float infinite = INFINITY;
  device.upload(t->unet().store.gradient().slice(0, {1}), &infinite);
  CHECK_THROWS(t->apply(3), Code::Diverged);
  CHECK(weights(*t) == before);
  step(*t, device, o, 3, {2});
  CHECK(weights(*t) != before);
}

TEST(
    "sampling that is captured and replayed gives the bytes of sampling that is not, and agrees "
    "with the cpu's") {
  for (DType compute : {DType::F32, DType::BF16})
    check::each(dtype_name(compute), [&] {
      Device device(cuda_options()), cpu({.backend = "cpu", .threads = 2, .isa = "auto"});
      auto unet = tiny::unet(device, {.compute = compute}),
           same = tiny::unet(cpu, {.compute = compute});
      std::vector<float> captured =
          tiny::floats(device, sample(*unet, sample_request(device, 5), nullptr, nullptr).latents);
      std::vector<float> expected =
          tiny::floats(cpu, sample(*same, sample_request(cpu, 5), nullptr, nullptr).latents);
      DeviceProfile profile(device);
      CHECK(
          captured ==
          tiny::floats(device, sample(*unet, sample_request(device, 5), nullptr, nullptr).latents));
      CHECK_THAT(distance(captured, expected) < (compute == DType::F32 ? 1e-4 : 3e-2),
                 distance(captured, expected));
    });
}

namespace {
std::string scheduler_config(const char* name, const char* more) {
  return cat(
      R"({"_class_name":")", name,
      R"(","num_train_timesteps":1000,"beta_start":0.00085,"beta_end":0.012,"beta_schedule":"scaled_linear",)",
      more, "}");
}
}  // namespace

TEST("every scheduler's steps give the same bytes captured and not, and agree with the cpu's") {
  struct Row {
    const char *name, *more;
    double eta = 0;
    int64_t steps = 4;
    double strength = 0;  // above 0: from an image
  };
  Device device(cuda_options()), cpu({.backend = "cpu", .threads = 2, .isa = "auto"});
  auto unet = tiny::unet(device, {}), same = tiny::unet(cpu, {});
  for (const Row& row : std::initializer_list<Row>{
           {"DDIMScheduler", R"("clip_sample":true)", 0.7},
           {"DDIMScheduler", R"("clip_sample":false,"prediction_type":"v_prediction")"},
           {"PNDMScheduler", R"("skip_prk_steps":true)", 0, 7},
           {"PNDMScheduler", R"("skip_prk_steps":false,"prediction_type":"v_prediction")", 0, 5},
           {"DPMSolverMultistepScheduler", R"("solver_order":2)"},
           {"DPMSolverMultistepScheduler",
            R"("solver_type":"heun","use_karras_sigmas":true,"prediction_type":"v_prediction")"},
           {"EulerDiscreteScheduler", R"("timestep_spacing":"leading")"},
           {"EulerDiscreteScheduler",
            R"("use_karras_sigmas":true,"prediction_type":"v_prediction")"},
           {"DPMSolverMultistepScheduler", R"("algorithm_type":"sde-dpmsolver++")"},
           {"UniPCMultistepScheduler", R"("solver_order":3)", 0, 6},
           {"HeunDiscreteScheduler", R"("prediction_type":"v_prediction")"},
           {"EulerAncestralDiscreteScheduler", R"("steps_offset":0)"},
           {"LCMScheduler", R"("clip_sample":false)"},
           {"DDPMScheduler", R"("clip_sample":true)"},
           {"DDIMScheduler", R"("clip_sample":false)", 0.7, 6, 0.5},
           {"PNDMScheduler", R"("skip_prk_steps":true)", 0, 7, 0.6},
           {"DPMSolverMultistepScheduler", R"("solver_order":2)", 0, 6, 0.67},
           {"EulerDiscreteScheduler", R"("timestep_spacing":"leading")", 0, 6, 0.5}})
    check::each(cat(row.name, " ", row.more, " ", row.strength), [&] {
      auto run = [&](Device& d, Unet& model) {
        SampleRequest r = one_image(d, row.steps);
        r.scheduler_config = scheduler_config(row.name, row.more);
        r.eta = row.eta;
        if (row.strength > 0) {
          r.images = tiny::floats(d, tiny::random(d, {1, 4, 4, 4}, 3));
          r.strength = row.strength;
        }
        return tiny::floats(d, sample(model, r, nullptr, nullptr).latents);
      };
      std::vector<float> captured = run(device, *unet), expected = run(cpu, *same);
      CHECK_THAT(distance(captured, expected) < 2e-4, distance(captured, expected));
      DeviceProfile profile(device);
      CHECK(captured == run(device, *unet));
    });
}

TEST("a step of sampling is one replay, with nothing of the host's in between") {
  if (on_real_device()) return;  // counted by the emulated one
  Device device(cuda_options());
  auto unet = tiny::unet(device, {});
  auto* counts = emulator_function<void (*)(emulator::Counts*)>("spindle_emulator_counts");
  constexpr int64_t kSteps = 7;
  std::vector<emulator::Counts> between;
  SampleRequest r = sample_request(device, kSteps);
  emulator::Counts before;
  counts(&before);
  sample(*unet, r, nullptr, [&](int64_t done, int64_t total) {
    CHECK_EQUAL(total, 3 * kSteps);
    CHECK_EQUAL(done, int64_t(between.size()) + 1);
    between.emplace_back();
    counts(&between.back());
  });
  CHECK_EQUAL(int64_t(between.size()), 3 * kSteps);
  // Passes of one shape share the captured step; the last one has another.
  uint64_t captures = 0;
  for (const emulator::Counts& c : between) captures += c.captures;
  CHECK_EQUAL(captures, uint64_t(2));
  // A step's report comes when two more are under way; in each pass, the first such report has the
  // beginning before it and the last two steps have none behind them.
  for (int64_t pass = 0; pass < 3; ++pass)
    for (int64_t i = 1; i < kSteps; ++i) {
      const emulator::Counts& c = between[size_t(pass * kSteps + i)];
      CHECK_THAT(c.replays == (i < kSteps - 2 ? 1 : 0) && c.others == 0 && c.waits == 0, "pass ",
                 pass, ", step ", i, ": ", c.replays, " replays, ", c.others, " others, ", c.waits,
                 " waits");
    }
}

TEST("sampling is cancelled between steps, and what comes after is whole") {
  Device device(cuda_options());
  auto unet = tiny::unet(device, {});
  std::vector<float> expected =
      tiny::floats(device, sample(*unet, one_image(device, 6), nullptr, nullptr).latents);
  for (int64_t last : {1, 3, 5}) {
    CancelToken cancel;
    int64_t reported = 0;
    CHECK_THROWS(sample(*unet, one_image(device, 6), &cancel,
                        [&](int64_t done, int64_t) {
                          reported = done;
                          if (done == last) cancel.cancel();
                        }),
                 Code::Cancelled);
    CHECK_EQUAL(reported, last);
  }
  CHECK(expected ==
        tiny::floats(device, sample(*unet, one_image(device, 6), nullptr, nullptr).latents));
}
