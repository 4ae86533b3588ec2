// The trainer beyond what the golden fixtures hold.
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <limits>

#include "check.h"
#include "io/safetensors.h"
#include "tiny_models.h"
#include "train/trainer.h"

using namespace spindle;

namespace {

TrainerOptions options(Objective objective) {
  TrainerOptions o;
  o.objective = objective;
  o.scheduler_config = tiny::kDdim;
  o.learning_rate = {.base = 1e-3, .kind = ScheduleKind::Linear, .warmup_steps = 2, .total_steps = 8};
  o.ema_decay = 0.9;
  o.seed = 11;
  return o;
}

std::unique_ptr<Trainer> trainer(Device& device, const TrainerOptions& o) {
  auto unet = tiny::unet(device, {.compute = o.compute, .trainable = true});
  auto opponent = is_spin(o.objective) ? copy_unet(*unet) : nullptr;
  return std::make_unique<Trainer>(std::move(unet), std::move(opponent), o);
}

TrainBatch batch(Device& device, const TrainerOptions& o, int64_t step, int64_t offset, int64_t pairs, int64_t whole) {
  TrainBatch b;
  b.step = step;
  b.offset = offset;
  b.step_batch_size = whole;
  auto rows = [&](const Shape& shape, uint32_t number) {
    std::vector<int64_t> dims = shape.dims();
    int64_t size = shape.numel() / dims[0];
    dims[0] = pairs;
    return tiny::random(device, shape, number).slice(offset * size, Shape(dims));
  };
  b.real = rows({whole, 4, 8, 8}, 1);
  if (is_spin(o.objective)) b.generated = rows({whole, 4, 8, 8}, 2);
  b.text = rows({whole, 5, 12}, 3);
  return b;
}

std::vector<float> weights(Trainer& t) { return tiny::floats(t.unet().store.master()); }

double distance(const std::vector<float>& a, const std::vector<float>& b) {
  double difference = 0, norm = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    difference += std::pow(double(a[i]) - double(b[i]), 2);
    norm += std::pow(double(b[i]), 2);
  }
  return std::sqrt(difference / norm);
}

// A file name that is removed at the end.
struct TemporaryFile {
  std::string path = (std::filesystem::temp_directory_path() / cat("spindle-train-test-", std::rand(), ".safetensors")).string();
  ~TemporaryFile() { std::filesystem::remove(path); }
};

Device cpu() { return Device({.backend = "cpu", .threads = 2, .isa = "auto"}); }

}  // namespace

TEST("micro-batches add up to the whole batch") {
  Device device = cpu();
  for (Objective objective : {Objective::SpinLogistic, Objective::Sft}) {
    TrainerOptions o = options(objective);
    auto whole = trainer(device, o), pieces = trainer(device, o);
    double loss = whole->accumulate(batch(device, o, 0, 0, 4, 4), nullptr).loss;
    double sum = pieces->accumulate(batch(device, o, 0, 0, 3, 4), nullptr).loss + pieces->accumulate(batch(device, o, 0, 3, 1, 4), nullptr).loss;
    CHECK_THAT(std::abs(loss - sum) < 1e-6, loss, " and ", sum);
    CHECK(distance(tiny::floats(pieces->unet().store.gradient()), tiny::floats(whole->unet().store.gradient())) < 1e-5);
    double norm = whole->apply(0).grad_norm, norm_of_pieces = pieces->apply(0).grad_norm;
    CHECK(std::abs(norm - norm_of_pieces) < 1e-5 * norm);
  }
}

TEST("training resumed from a saved state is bit for bit the undisturbed one") {
  Device device = cpu();
  for (DType compute : {DType::F32, DType::BF16}) {
    TrainerOptions o = options(Objective::SpinLogistic);
    o.compute = compute;
    auto undisturbed = trainer(device, o), stopped = trainer(device, o), resumed = trainer(device, o);
    auto step = [&](Trainer& t, int64_t k) {
      t.accumulate(batch(device, o, k, 0, 2, 2), nullptr);
      t.apply(k);
    };
    TemporaryFile state, expected, got;
    for (int64_t k = 0; k < 4; ++k) step(*undisturbed, k);
    for (int64_t k = 0; k < 2; ++k) step(*stopped, k);
    stopped->save_state(state.path, {{"step", "2"}});
    CHECK_EQUAL(resumed->load_state(state.path).at("step"), std::string("2"));
    for (int64_t k = 2; k < 4; ++k) step(*resumed, k);
    CHECK(weights(*resumed) == weights(*undisturbed));
    undisturbed->export_weights(expected.path);
    resumed->export_weights(got.path);
    SafetensorsFile a(expected.path), b(got.path);
    CHECK_EQUAL(a.tensors().size(), b.tensors().size());
    for (const FileTensor& t : a.tensors()) CHECK_THAT(a.floats(t.name) == b.floats(t.name), t.name);
    CHECK(a.at("down_blocks.0.attentions.0.proj_in.weight").shape == (std::vector<int64_t>{8, 8, 1, 1}));
    CHECK(a.at("conv_in.weight").shape == (std::vector<int64_t>{8, 4, 3, 3}));
  }
}

TEST("a loss that is not finite stops the step and leaves the weights as they were") {
  Device device = cpu();
  for (Objective objective : {Objective::SpinLogistic, Objective::SpinHinge, Objective::Sft}) {
    TrainerOptions o = options(objective);
    auto t = trainer(device, o);
    std::vector<float> before = weights(*t);
    TrainBatch broken = batch(device, o, 0, 0, 2, 2);
    broken.real.f32()[5] = std::numeric_limits<float>::quiet_NaN();
    CHECK_THROWS(t->accumulate(broken, nullptr), Code::Diverged);
    CHECK_THROWS(t->apply(0), Code::InvalidArgument);
    CHECK(weights(*t) == before);
    t->accumulate(batch(device, o, 0, 0, 2, 2), nullptr);
    t->apply(0);
    CHECK(weights(*t) != before);
  }
}

TEST("a gradient norm that is not finite changes nothing") {
  Device device = cpu();
  TrainerOptions o = options(Objective::Sft);
  auto t = trainer(device, o);
  std::vector<float> before = weights(*t);
  t->accumulate(batch(device, o, 0, 0, 2, 2), nullptr);
  t->unet().store.gradient().f32()[0] = std::numeric_limits<float>::infinity();
  CHECK_THROWS(t->apply(0), Code::Diverged);
  CHECK(weights(*t) == before);
}

TEST("a cancelled micro-batch drops the step's gradients") {
  Device device = cpu();
  TrainerOptions o = options(Objective::Sft);
  auto t = trainer(device, o), other = trainer(device, o);
  t->accumulate(batch(device, o, 0, 0, 2, 4), nullptr);
  CancelToken token;
  token.cancel();
  CHECK_THROWS(t->accumulate(batch(device, o, 0, 2, 2, 4), &token), Code::Cancelled);
  for (Trainer* each : {t.get(), other.get()}) {
    each->accumulate(batch(device, o, 0, 0, 4, 4), nullptr);
    each->apply(0);
  }
  CHECK(weights(*t) == weights(*other));
}

TEST("batches that do not fit are refused") {
  Device device = cpu();
  TrainerOptions o = options(Objective::SpinLogistic);
  auto t = trainer(device, o);
  TrainBatch b = batch(device, o, 0, 0, 2, 2);
  b.generated = Tensor();
  CHECK_THROWS(t->accumulate(b, nullptr), Code::InvalidArgument);
  b = batch(device, o, 0, 0, 2, 2);
  b.step_batch_size = 1;
  CHECK_THROWS(t->accumulate(b, nullptr), Code::InvalidArgument);
  t->accumulate(batch(device, o, 0, 0, 1, 2), nullptr);
  CHECK_THROWS(t->accumulate(batch(device, o, 1, 1, 1, 2), nullptr), Code::InvalidArgument);
  CHECK_THROWS(t->apply(1), Code::InvalidArgument);
}

TEST("learning rates warm up and decay") {
  LearningRate linear{.base = 1, .kind = ScheduleKind::Linear, .warmup_steps = 10, .total_steps = 100};
  CHECK(std::abs(linear.at(0) - 0.1) < 1e-12);
  CHECK(std::abs(linear.at(9) - 1) < 1e-12);
  CHECK(std::abs(linear.at(99) - 1.0 / 90) < 1e-12);
  CHECK_EQUAL(linear.at(100), 0.0);
  LearningRate cosine{.base = 2, .kind = ScheduleKind::Cosine, .warmup_steps = 0, .total_steps = 100};
  CHECK_EQUAL(cosine.at(0), 2.0);
  CHECK(std::abs(cosine.at(50) - 1) < 1e-12);
  LearningRate constant{.base = 3, .kind = ScheduleKind::Constant, .warmup_steps = 4, .total_steps = 100};
  CHECK_EQUAL(constant.at(1), 1.5);
  CHECK_EQUAL(constant.at(90), 3.0);
}

TEST("slopes of the objectives agree with finite differences") {
  for (Objective objective : {Objective::SpinLogistic, Objective::SpinHinge, Objective::Sft}) {
    Errors e{{0.1, 0.9}, {0.3, 0.2}, {0.15, 0.7}, {0.28, 0.4}};
    LossTerms terms = loss_terms(objective, 30, e, 0.5);
    const double h = 1e-6;
    for (size_t i = 0; i < 2; ++i) {
      Errors up = e, down = e;
      up.real[i] += h;
      down.real[i] -= h;
      double slope = (loss_terms(objective, 30, up, 0.5).loss - loss_terms(objective, 30, down, 0.5).loss) / (2 * h);
      CHECK_THAT(std::abs(slope - double(terms.weight_real[i])) < 1e-5, slope, " and ", terms.weight_real[i]);
      if (!is_spin(objective)) continue;
      up = down = e;
      up.generated[i] += h;
      down.generated[i] -= h;
      slope = (loss_terms(objective, 30, up, 0.5).loss - loss_terms(objective, 30, down, 0.5).loss) / (2 * h);
      CHECK_THAT(std::abs(slope - double(terms.weight_generated[i])) < 1e-5, slope, " and ", terms.weight_generated[i]);
    }
  }
}
