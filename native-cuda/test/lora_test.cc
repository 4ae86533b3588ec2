// Low-rank adapters: the op, training them, and their files.
#include <cmath>
#include <cstdlib>
#include <filesystem>

#include "check.h"
#include "gradcheck.h"
#include "io/lora_file.h"
#include "io/safetensors.h"
#include "models/inference.h"
#include "ops/ops.h"
#include "temporary.h"
#include "tiny_models.h"
#include "tiny_training.h"
#include "train/trainer.h"

using namespace spindle;
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

// The tiny U-Net as files, so that trainers load it as they do a released one.
struct BaseFiles {
  explicit BaseFiles(Device& device) {
    auto unet = tiny::unet(device, {.trainable = true});
    save_parameters(file.path, {{"", &unet->store, unet->store.master()}});
  }
  ModelSource source(const std::vector<AdapterSource>& adapters = {}) const {
    return {tiny::kUnet, {file.path}, "tiny", adapters};
  }
  TemporaryFile file;
};

std::vector<float> forward(Unet& unet) {
  Device& device = unet.device;
  return tiny::floats(unet_forward(unet, tiny::random(device, {1, 4, 8, 8}, 4), {300},
                                   tiny::random(device, {1, 5, 12}, 5)));
}

void step(Trainer& t, int64_t k) {
  t.accumulate(batch(t.unet().device, k), nullptr);
  t.apply(k);
}

TensorToWrite tensor(const std::string& name,
                     const std::vector<int64_t>& shape,
                     const std::vector<float>& values) {
  return {name, FileType::F32, shape,
          [values](const ByteSink& sink) { sink(values.data(), values.size() * sizeof(float)); }};
}

std::vector<float> drawn(int64_t count, uint32_t number) {
  std::vector<float> values(static_cast<size_t>(count));
  Philox(7, 0).normal(values.data(), count, number, 0, Draw::Test);
  return values;
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

TEST("adapter files of every convention mean the same") {
  Device device = cpu();
  BaseFiles files(device);
  const std::string attention = "down_blocks.0.attentions.0.transformer_blocks.0.attn2";
  std::vector<float> down = drawn(2 * 12, 1), up = drawn(8 * 2, 2), down_out = drawn(2 * 8, 3),
                     up_out = drawn(8 * 2, 4), filter = drawn(2 * 4 * 9, 5),
                     up_filter = drawn(8 * 2, 6);
  struct Convention {
    const char* name;
    std::string down, up, alpha, down_out, up_out, alpha_out;
  };
  const std::string kohya = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_";
  const std::vector<Convention> conventions = {
      {"PEFT", "unet." + attention + ".to_k.lora_A.weight",
       "unet." + attention + ".to_k.lora_B.weight", "unet." + attention + ".to_k.alpha",
       "unet." + attention + ".to_out.0.lora_A.weight",
       "unet." + attention + ".to_out.0.lora_B.weight", "unet." + attention + ".to_out.0.alpha"},
      {"PEFT's own", "base_model.model." + attention + ".to_k.lora_A.weight",
       "base_model.model." + attention + ".to_k.lora_B.weight", attention + ".to_k.alpha",
       attention + ".to_out.0.lora_A.weight", attention + ".to_out.0.lora_B.weight",
       attention + ".to_out.0.alpha"},
      {"older diffusers", "unet." + attention + ".to_k.lora.down.weight",
       "unet." + attention + ".to_k.lora.up.weight", "unet." + attention + ".to_k.alpha",
       "unet." + attention + ".to_out.0.lora.down.weight",
       "unet." + attention + ".to_out.0.lora.up.weight", "unet." + attention + ".to_out.0.alpha"},
      {"attention processors", "unet." + attention + ".processor.to_k_lora.down.weight",
       "unet." + attention + ".processor.to_k_lora.up.weight", "unet." + attention + ".to_k.alpha",
       "unet." + attention + ".processor.to_out_lora.down.weight",
       "unet." + attention + ".processor.to_out_lora.up.weight",
       "unet." + attention + ".to_out.0.alpha"},
      {"kohya", kohya + "to_k.lora_down.weight", kohya + "to_k.lora_up.weight",
       kohya + "to_k.alpha", kohya + "to_out_0.lora_down.weight", kohya + "to_out_0.lora_up.weight",
       kohya + "to_out_0.alpha"},
  };
  auto base = load_unet(device, files.source(), {.trainable = true});
  std::vector<float> before = tiny::floats(base->store.find(attention + ".to_k.weight")->master),
                     before_filter = tiny::floats(base->store.find("conv_in.weight")->master);
  for (const Convention& c : conventions)
    check::each(c.name, [&] {
      TemporaryFile file;
      write_safetensors(
          file.path,
          {tensor(c.down, {2, 12}, down), tensor(c.up, {8, 2}, up), tensor(c.alpha, {}, {1}),
           tensor(c.down_out, {2, 8}, down_out), tensor(c.up_out, {8, 2}, up_out),
           tensor("unet.conv_in.lora_A.weight", {2, 4, 3, 3}, filter),
           tensor("unet.conv_in.lora_B.weight", {8, 2, 1, 1}, up_filter)},
          {});
      auto with = load_unet(device, files.source({{file.path, 0.5}}), {.trainable = true});
      std::vector<float> after = tiny::floats(with->store.find(attention + ".to_k.weight")->master);
      for (size_t i = 0; i < 8; ++i)
        for (size_t j = 0; j < 12; ++j) {
          // alpha 1 over rank 2, times the scale of 1/2
          double expected =
              double(before[i * 12 + j]) + 0.25 * (double(up[i * 2]) * double(down[j]) +
                                                   double(up[i * 2 + 1]) * double(down[12 + j]));
          CHECK_THAT(std::abs(double(after[i * 12 + j]) - expected) < 1e-6, after[i * 12 + j],
                     " and ", expected);
        }
      // No alpha: the rank. The engine keeps filters as (Co, R, S, Ci), files as (Co, Ci, R, S).
      std::vector<float> after_filter = tiny::floats(with->store.find("conv_in.weight")->master);
      for (size_t o = 0; o < 8; ++o)
        for (size_t in = 0; in < 4; ++in)
          for (size_t rs = 0; rs < 9; ++rs) {
            size_t at = (o * 9 + rs) * 4 + in;
            double expected =
                double(before_filter[at]) +
                0.5 * (double(up_filter[o * 2]) * double(filter[in * 9 + rs]) +
                       double(up_filter[o * 2 + 1]) * double(filter[36 + in * 9 + rs]));
            CHECK_THAT(std::abs(double(after_filter[at]) - expected) < 1e-6, after_filter[at],
                       " and ", expected);
          }
    });
}

TEST("alpha may stand in the header, as diffusers writes PEFT's settings") {
  Device device = cpu();
  BaseFiles files(device);
  auto base = load_unet(device, files.source(), {.trainable = true});
  TemporaryFile file;
  write_safetensors(file.path,
                    {tensor("unet.time_embedding.linear_1.lora_A.weight", {2, 8}, drawn(16, 1)),
                     tensor("unet.time_embedding.linear_1.lora_B.weight", {32, 2}, drawn(64, 2))},
                    {{"lora_adapter_metadata", R"({"unet.r": 2, "unet.lora_alpha": 16})"}});
  CHECK_EQUAL(LoraFile(file.path, base->store).find("time_embedding.linear_1.weight")->alpha, 16.0);
}

TEST("adapters of something else are refused by name") {
  Device device = cpu();
  BaseFiles files(device);
  auto base = load_unet(device, files.source(), {.trainable = true});
  const std::string linear = "unet.time_embedding.linear_1";
  std::vector<float> values = drawn(64, 1);
  auto first = [&](int64_t count) {
    return std::vector<float>(values.begin(), values.begin() + count);
  };
  const std::vector<std::vector<TensorToWrite>> bad = {
      {tensor(linear + ".lora_A.weight", {2, 8}, first(16))},  // half a pair
      {tensor(linear + ".lora_A.weight", {2, 7}, first(14)),
       tensor(linear + ".lora_B.weight", {32, 2}, first(64))},  // of another width
      {tensor(linear + ".lora_A.weight", {2, 8}, first(16)),
       tensor(linear + ".lora_B.weight", {16, 4}, first(64))},  // ranks that differ
      {tensor("unet.nowhere.lora_A.weight", {2, 8}, first(16)),
       tensor("unet.nowhere.lora_B.weight", {32, 2}, first(64))},    // no such layer
      {tensor(linear + ".lora_magnitude_vector", {32}, first(32))},  // DoRA
      {tensor("text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_A.weight", {2, 8},
              first(16))},  // of the text encoder
      {tensor("unet.conv_norm_out.lora_A.weight", {2, 8}, first(16)),
       tensor("unet.conv_norm_out.lora_B.weight", {8, 2}, first(16))},  // of a norm
  };
  for (const std::vector<TensorToWrite>& tensors : bad) {
    TemporaryFile file;
    write_safetensors(file.path, tensors, {});
    CHECK_THROWS(LoraFile(file.path, base->store), Code::InvalidArgument);
    CHECK_THROWS(load_unet(device, files.source({{file.path}}), {}), Code::InvalidArgument);
  }
}
