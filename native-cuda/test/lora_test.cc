// Low-rank adapters: the op, and training them. lora_file_test.cc has their files.
#include <cmath>
#include <cstdlib>
#include <filesystem>

#include "check.h"
#include "gradcheck.h"
#include "io/safetensors.h"
#include "models/inference.h"
#include "ops/ops.h"
#include "lora_files.h"
#include "tiny_models.h"
#include "tiny_training.h"
#include "train/trainer.h"

using namespace spindle;
using tiny::BaseFiles;
using tiny::distance;

namespace {

Device cpu() { return Device({.backend = "cpu", .threads = 2, .isa = "auto"}); }

TrainerOptions options(bool lora, Objective objective = Objective::SpinLogistic) {
  TrainerOptions o;
  o.objective.objective = objective;
  o.scheduler_config = tiny::kDdim;
  o.learning_rate = {.base = 1e-2};
  o.seed = 11;
  if (lora) o.lora = {.rank = 3, .alpha = 6, .targets = {"to_q", "to_k", "to_v", "to_out.0"}};
  return o;
}

TrainBatch batch(Device& device, int64_t step, bool generated = true) {
  TrainBatch b;
  b.step = step;
  b.step_batch_size = 2;
  b.real = tiny::random(device, {2, 4, 8, 8}, 1);
  if (generated) b.generated = tiny::random(device, {2, 4, 8, 8}, 2);
  b.text = tiny::random(device, {2, 5, 12}, 3);
  return b;
}

std::vector<float> forward(Unet& unet) {
  Device& device = unet.device;
  return tiny::floats(unet_forward(unet, tiny::random(device, {1, 4, 8, 8}, 4), {300},
                                   tiny::random(device, {1, 5, 12}, 5)));
}

void step(Trainer& t, int64_t k) {
  t.accumulate(batch(t.unet().device, k), nullptr);
  t.apply(k);
}

}  // namespace

TEST(
    "gradients of a matrix with a low-rank addition are those of finite differences, its own "
    "weight trained or frozen") {
  for (bool gated : {false, true})
    for (bool frozen : {false, true})
      check::each(cat(gated ? "geglu" : "linear", frozen ? ", frozen" : ""), [&] {
        GradCheck g;
        ParameterStore base(g.device);
        ParameterStore& home = frozen ? base : g.store;
        Tensor x = g.input("x", {2, 3, 5}),
               residual = gated ? Tensor() : g.input("residual", {2, 3, 8});
        Parameter &w = home.add("w", {8, 5}, ParameterKind::Matrix),
                  &bias = home.add("bias", {8}, ParameterKind::Vector);
        Parameter &a = g.parameter("a", {2, 5}, ParameterKind::Matrix),
                  &b = g.parameter("b", {8, 2}, ParameterKind::Matrix);
        g.allocate();
        if (frozen) {
          base.allocate(DType::F64, DType::F64, WeightUse::PassThrough);
          for (Parameter& p : base.parameters()) fill_uniform(p.master, 40 + p.id);
          base.commit();
        }
        LowRank low_rank{&a, &b, 0.75};
        w.low_rank = &low_rank;
        g.check([&](Tape& tape) {
          return gated ? ops::linear_geglu(tape, x, w, &bias)
                       : ops::linear(tape, x, w,
                                     {.bias = &bias, .per_image = {}, .residual = residual});
        });
      });
}

TEST("a matrix with a low-rank addition is the sum of both, in double") {
  Device device({.backend = "reference", .threads = 1, .isa = "auto"});
  ParameterStore store(device);
  Parameter &w = store.add("w", {4, 5}, ParameterKind::Matrix),
            &a = store.add("a", {2, 5}, ParameterKind::Matrix),
            &b = store.add("b", {4, 2}, ParameterKind::Matrix);
  store.allocate(DType::F64, DType::F64, true);
  for (Parameter& p : store.parameters()) fill_uniform(p.master, p.id);
  Tensor x = uniform_tensor(device.pool(), {3, 5}, DType::F64, 9);
  LowRank low_rank{&a, &b, 1.5};
  w.low_rank = &low_rank;
  Tape tape(device, false);
  Tensor y = ops::linear(tape, x, w);
  const double *W = w.master.data<double>(), *A = a.master.data<double>(),
               *B = b.master.data<double>(), *X = x.data<double>();
  for (int64_t i = 0; i < 3; ++i)
    for (int64_t n = 0; n < 4; ++n) {
      double sum = 0;
      for (int64_t k = 0; k < 5; ++k) {
        double weight = W[n * 5 + k];
        for (int64_t r = 0; r < 2; ++r) weight += 1.5 * B[n * 2 + r] * A[r * 5 + k];
        sum += weight * X[i * 5 + k];
      }
      CHECK(std::abs(y.data<double>()[i * 4 + n] - sum) < 1e-12);
    }
}

TEST("adapters have the gradient that the whole weights' implies, and nothing else moves") {
  Device device = cpu();
  BaseFiles files(device);
  Trainer whole(device, files.source(), nullptr, options(false)),
      lora(device, files.source(), nullptr, options(true));
  TrainBatchResult a = whole.accumulate(batch(device, 0), nullptr),
                   b = lora.accumulate(batch(device, 0), nullptr);
  // B is zero at first: both are the base, and so is the opponent with adapters off.
  CHECK(std::abs(b.loss - std::log(2.0)) < 1e-6);
  CHECK_EQUAL(a.loss, b.loss);
  CHECK(b.errors.real == b.errors.opponent_real);
  int64_t layers = 0;
  for (Parameter& p : lora.trained().parameters()) {
    if (!p.name.ends_with(".lora_B.weight")) continue;
    ++layers;
    std::string layer = p.name.substr(0, p.name.size() - std::string(".lora_B.weight").size());
    const Tensor &dw = whole.unet().store.find(layer + ".weight")->grad,
                 &down = lora.trained().find(layer + ".lora_A.weight")->master;
    int64_t n = p.shape[0], rank = p.shape[1], k = down.dim(1);
    std::vector<float> expected;
    for (int64_t i = 0; i < n; ++i)
      for (int64_t r = 0; r < rank; ++r) {
        double sum = 0;  // dB = alpha / r * dW A^T
        for (int64_t j = 0; j < k; ++j)
          sum += double(dw.f32()[i * k + j]) * double(down.f32()[r * k + j]);
        expected.push_back(float(2 * sum));
      }
    CHECK_THAT(distance(tiny::floats(p.grad), expected) < 1e-4, p.name);
  }
  CHECK_EQUAL(layers, 32);  // four transformer blocks with two attentions of four matrices each
  std::vector<float> before = tiny::floats(lora.unet().store.parameters()[0].master);
  lora.apply(0);
  CHECK(tiny::floats(lora.unet().store.parameters()[0].master) == before);
  CHECK(lora.trained().numel() * 5 < lora.unet().store.numel());
  CHECK(!lora.unet().store.gradient());
  // The opponent stays the base while the model moves.
  TrainBatchResult later = lora.accumulate(batch(device, 0), nullptr);
  CHECK(later.errors.opponent_real == b.errors.opponent_real);
  CHECK(later.errors.real != b.errors.real);
}

TEST("training of adapters lowers its loss, resumes bit for bit, and in bfloat16 too") {
  Device device = cpu();
  BaseFiles files(device);
  for (DType compute : {DType::F32, DType::BF16}) {
    TrainerOptions o = options(true);
    o.compute = compute;
    o.ema_decay = 0.5;
    Trainer undisturbed(device, files.source(), nullptr, o),
        stopped(device, files.source(), nullptr, o), resumed(device, files.source(), nullptr, o);
    for (int64_t k = 0; k < 6; ++k) step(undisturbed, k);
    for (int64_t k = 0; k < 3; ++k) step(stopped, k);
    TemporaryFile state, a, b;
    stopped.save_state(state.path, {});
    resumed.load_state(state.path);
    for (int64_t k = 3; k < 6; ++k) step(resumed, k);
    for (bool averaged : {false, true}) {
      undisturbed.export_adapters(a.path, averaged);
      resumed.export_adapters(b.path, averaged);
      SafetensorsFile left(a.path), right(b.path);
      for (const FileTensor& t : left.tensors())
        CHECK_THAT(left.floats(t.name) == right.floats(t.name), t.name);
    }
    TrainBatch same = batch(device, 0);
    CHECK(undisturbed.accumulate(same, nullptr).loss < std::log(2.0) - 1e-3);
    // A checkpoint holds the adapters alone.
    CHECK(std::filesystem::file_size(state.path) < std::filesystem::file_size(files.file.path));
  }
}

TEST("adapters trained with activation checkpointing are the same bytes") {
  Device device = cpu();
  BaseFiles files(device);
  std::vector<std::vector<float>> trained;
  size_t peaks[2] = {0, 0};
  for (bool checkpointing : {false, true}) {
    TrainerOptions o = options(true);
    o.activation_checkpointing = checkpointing;
    Trainer trainer(device, files.source(), nullptr, o);
    device.pool().reset_peak();
    for (int64_t k = 0; k < 3; ++k) step(trainer, k);
    peaks[checkpointing] = device.pool().stats().peak_bytes;
    TemporaryFile adapters;
    trainer.export_adapters(adapters.path, false);
    trained.push_back(forward(*load_unet(device, files.source({{adapters.path}}), {})));
  }
  CHECK(trained[0] == trained[1]);
  CHECK(peaks[1] < peaks[0]);
  auto base = load_unet(device, files.source(), {});
  CHECK(distance(forward(*base), trained[0]) > 1e-3);
}

TEST("exported adapters on the base, merged weights and the trained model are one") {
  Device device = cpu();
  BaseFiles files(device);
  TrainerOptions o = options(true);
  o.lora->targets = {"to_k", "proj_in", "ff.net.0.proj", "mid_block.attentions.0.proj_out",
                     "time_embedding.linear_1"};
  Trainer trainer(device, files.source(), nullptr, o);
  for (int64_t k = 0; k < 3; ++k) step(trainer, k);
  TemporaryFile merged, adapters;
  trainer.export_weights(merged.path, false);
  trainer.export_adapters(adapters.path, false);
  std::vector<float> trained = forward(trainer.unet());  // adapters are active after a step
  auto base = load_unet(device, files.source(), {}),
       whole = load_unet(device, {tiny::kUnet, {merged.path}, "merged"}, {});
  auto added = load_unet(device, files.source({{adapters.path}}), {}),
       half = load_unet(device, files.source({{adapters.path, 0.5}}), {}),
       twice = load_unet(device, files.source({{adapters.path, 0.5}, {adapters.path, 0.5}}), {});
  CHECK_THAT(distance(forward(*whole), trained) < 1e-5, distance(forward(*whole), trained));
  CHECK(distance(forward(*added), trained) < 1e-5);
  CHECK(distance(forward(*twice), trained) < 1e-5);
  CHECK(distance(forward(*base), trained) > 1e-3);
  CHECK(distance(forward(*half), trained) > 1e-4);
  // PEFT's names and shapes; a 1x1 convolution's are those of a convolution.
  SafetensorsFile file(adapters.path);
  CHECK(file.at("unet.mid_block.attentions.0.proj_out.lora_A.weight").shape ==
        (std::vector<int64_t>{3, 16, 1, 1}));
  CHECK(file.at("unet.mid_block.attentions.0.proj_out.lora_B.weight").shape ==
        (std::vector<int64_t>{16, 3, 1, 1}));
  CHECK(file.at("unet.time_embedding.linear_1.lora_A.weight").shape ==
        (std::vector<int64_t>{3, 8}));
}

TEST(
    "the next iteration goes on from the adapters of the last one and plays against them, or "
    "against the base") {
  Device device = cpu();
  BaseFiles files(device);
  Trainer first(device, files.source(), nullptr, options(true));
  for (int64_t k = 0; k < 3; ++k) step(first, k);
  TemporaryFile adapters;
  first.export_adapters(adapters.path, false);
  ModelSource trained = files.source({{adapters.path}}), base = files.source();
  for (double alpha : {6.0, 12.0}) {  // alpha may change: the product stays
    TrainerOptions o = options(true);
    o.lora->alpha = alpha;
    Trainer second(device, trained, &trained, o);
    TrainBatchResult result = second.accumulate(batch(device, 0), nullptr);
    CHECK_THAT(std::abs(result.loss - std::log(2.0)) < 1e-5, result.loss);
    Trainer against_base(device, trained, &base, o);
    TrainBatchResult other = against_base.accumulate(batch(device, 0), nullptr);
    CHECK(distance({float(other.errors.real[0])}, {float(result.errors.real[0])}) < 1e-5);
    CHECK(other.errors.opponent_real ==
          first.accumulate(batch(device, 0), nullptr).errors.opponent_real);
    CHECK(other.loss < std::log(2.0) - 1e-3);
  }
  BaseFiles elsewhere(device);
  ModelSource foreign = elsewhere.source();
  CHECK_THROWS(Trainer(device, trained, &foreign, options(true)), Code::InvalidArgument);
  TrainerOptions wider = options(true);
  wider.lora->rank = 4;
  CHECK_THROWS(Trainer(device, trained, nullptr, wider), Code::InvalidArgument);
  TrainerOptions nowhere = options(true);
  nowhere.lora->targets = {"to_x"};
  CHECK_THROWS(Trainer(device, base, nullptr, nowhere), Code::InvalidArgument);
}
