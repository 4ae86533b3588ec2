// Activations that are computed again in backward: the same gradients to the last bit, for less
// memory.
#include <cmath>
#include <cstring>

#include "check.h"
#include "tiny_models.h"
#include "train/trainer.h"

using namespace spindle;

namespace {

// Two resnets with transformers per level and SDXL's extra embedding, so that every kind of input
// crosses a checkpoint.
const char* const kDeep =
    R"({"sample_size":16,"block_out_channels":[16,32],"layers_per_block":2,"cross_attention_dim":12,"attention_head_dim":2,"norm_num_groups":4,
  "down_block_types":["CrossAttnDownBlock2D","CrossAttnDownBlock2D"],"up_block_types":["CrossAttnUpBlock2D","CrossAttnUpBlock2D"],"transformer_layers_per_block":[1,2],
  "addition_embed_type":"text_time","addition_time_embed_dim":8,"projection_class_embeddings_input_dim":58})";

struct Outcome {
  std::vector<double> errors;
  std::vector<float> gradient, weights;
  size_t peak;
};

Outcome steps(const char* backend, DType compute, bool checkpointing) {
  Device device({.backend = backend, .threads = 2, .isa = "auto"});
  TrainerOptions options;
  options.compute = compute;
  options.scheduler_config = tiny::kDdim;
  options.learning_rate = {.base = 1e-3};
  options.activation_checkpointing = checkpointing;
  auto unet = random_unet(device, kDeep, {.compute = compute, .trainable = true});
  auto opponent = copy_unet(*unet);
  Trainer trainer(std::move(unet), std::move(opponent), options);
  TrainBatch b;
  b.step_batch_size = 2;
  b.real = tiny::random(device, {2, 4, 16, 16}, 1);
  b.generated = tiny::random(device, {2, 4, 16, 16}, 2);
  b.text = tiny::random(device, {2, 5, 12}, 3);
  b.pooled = tiny::random(device, {2, 10}, 4);
  b.time_ids = std::vector<float>(12, 64.0F);
  Outcome outcome;
  for (b.step = 0; b.step < 2; ++b.step) {
    device.pool().reset_peak();
    outcome.errors = trainer.accumulate(b, nullptr).errors.real;
    outcome.peak = device.pool().stats().peak_bytes;
    if (b.step == 1) outcome.gradient = tiny::floats(trainer.unet().store.gradient());
    trainer.apply(b.step);
  }
  outcome.weights = tiny::floats(trainer.unet().store.master());
  return outcome;
}

bool same_bytes(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

}  // namespace

TEST("checkpoints change no gradient and no weight, and lower the peak") {
  for (DType compute : {DType::F32, DType::BF16}) {
    Outcome plain = steps("cpu", compute, false), again = steps("cpu", compute, true);
    CHECK(plain.errors == again.errors);
    CHECK(same_bytes(plain.gradient, again.gradient));
    CHECK(same_bytes(plain.weights, again.weights));
    CHECK_THAT(again.peak < plain.peak * 3 / 4, again.peak, " and ", plain.peak);
  }
}

TEST("checkpoints nest in the order of the tape: an input used twice gets both gradients") {
  Device device({.backend = "reference", .threads = 1, .isa = "auto"});
  for (bool checkpoints : {false, true}) {
    Tensor x = tiny::random(device, {1, 2, 2, 4}, 1);
    x.set_needs_grad(true);
    Tape tape(device, true, checkpoints);
    Tensor y = tape.checkpoint(
        [](Tape& t, const Tensor& in) {
          return ops::activation(t, ops::activation(t, in, Activation::Silu), Activation::Silu);
        },
        x);
    Tensor z = tape.checkpoint(
        [](Tape& t, const Tensor& a, const Tensor& b) { return ops::concat_channels(t, a, b); }, y,
        x);
    CHECK_EQUAL(tape.size(), checkpoints ? size_t(2) : size_t(3));
    Tensor dz = device.empty(z.shape(), DType::F32);
    for (int64_t i = 0; i < dz.numel(); ++i) dz.f32()[i] = 1;
    Tensor dx = tape.backward(z, dz).get(x);
    auto silu = [](double v) { return v / (1 + std::exp(-v)); };
    for (int64_t i = 0; i < x.numel(); ++i) {
      double v = x.f32()[i], h = 1e-5, slope = (silu(silu(v + h)) - silu(silu(v - h))) / (2 * h);
      CHECK_THAT(std::abs(dx.f32()[i] - (slope + 1)) < 1e-4, dx.f32()[i], " and ", slope + 1);
    }
  }
}
