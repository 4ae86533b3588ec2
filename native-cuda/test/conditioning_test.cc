// What a U-Net is told beside timestep and text (SDXL): pooled text, sizes and crop, in sampling
// and in training.
#include <cmath>
#include <cstring>

#include "check.h"
#include "models/layout.h"
#include "sample/noise_schedule.h"
#include "sample/sample.h"
#include "tiny_models.h"
#include "train/trainer.h"

using namespace spindle;

namespace {

const char* const kTextTime =
    R"({"sample_size":8,"block_out_channels":[8,16],"layers_per_block":1,"cross_attention_dim":12,"attention_head_dim":2,"norm_num_groups":4,
  "down_block_types":["DownBlock2D","CrossAttnDownBlock2D"],"up_block_types":["CrossAttnUpBlock2D","UpBlock2D"],"transformer_layers_per_block":[1,2],"use_linear_projection":true,
  "addition_embed_type":"text_time","addition_time_embed_dim":8,"projection_class_embeddings_input_dim":58})";
constexpr int64_t kPooled = 10;

Device cpu() { return Device({.backend = "cpu", .threads = 2, .isa = "auto"}); }

std::vector<double> mean_squares(const Tensor& prediction, const Tensor& target) {
  int64_t images = prediction.dim(0), size = prediction.numel() / images;
  std::vector<double> out;
  for (int64_t i = 0; i < images; ++i) {
    double sum = 0;
    for (int64_t j = i * size; j < (i + 1) * size; ++j)
      sum += std::pow(double(prediction.f32()[j]) - double(target.f32()[j]), 2);
    out.push_back(sum / double(size));
  }
  return out;
}

// Row i of a tensor.
Tensor row(const Tensor& x, int64_t i) {
  std::vector<int64_t> dims = x.shape().dims();
  int64_t size = x.numel() / dims[0];
  dims[0] = 1;
  return x.slice(i * size, Shape(dims));
}

}  // namespace

TEST("a training step tells both images of a pair the pair's own pooled text, sizes and crop") {
  Device device = cpu();
  TrainerOptions options;
  options.scheduler_config = tiny::kDdim;
  auto unet = random_unet(device, kTextTime, {.trainable = true});
  auto alone = copy_unet(*unet);
  auto opponent = copy_unet(*unet);
  Trainer trainer(std::move(unet), std::move(opponent), options);
  TrainBatch b;
  b.step_batch_size = 2;
  b.real = tiny::random(device, {2, 4, 8, 8}, 1);
  b.generated = tiny::random(device, {2, 4, 8, 8}, 2);
  b.text = tiny::random(device, {2, 5, 12}, 3);
  b.pooled = tiny::random(device, {2, kPooled}, 4);
  b.time_ids = {64, 96, 0, 16, 64, 64, 512, 512, 0, 0, 64, 64};
  b.noise = tiny::random(device, {2, 4, 8, 8}, 5);
  b.timesteps = {10, 700};
  Errors e = trainer.accumulate(b, nullptr).errors;
  NoiseSchedule schedule = NoiseSchedule::parse(tiny::kDdim);
  for (int64_t i = 0; i < 2; ++i) {
    Tensor noise = row(b.noise, i);
    for (bool real : {true, false}) {
      Tensor x = row(real ? b.real : b.generated, i), noisy = device.empty(x.shape(), DType::F32);
      schedule.add_noise(noisy.f32(), x.f32(), noise.f32(), x.numel(), b.timesteps[size_t(i)]);
      Tape tape(device, false);
      std::vector<float> ids(b.time_ids.begin() + 6 * i, b.time_ids.begin() + 6 * (i + 1));
      Tensor out =
          to_nchw(device, alone->model.forward(tape, {.sample = to_nhwc(device, noisy, DType::F32),
                                                      .timesteps = {float(b.timesteps[size_t(i)])},
                                                      .text = row(b.text, i),
                                                      .text_embeds = row(b.pooled, i),
                                                      .time_ids = ids}));
      double expected = mean_squares(out, noise)[0],
             got = real ? e.real[size_t(i)] : e.generated[size_t(i)];
      CHECK_THAT(std::abs(got - expected) < 1e-6 * expected, got, " and ", expected);
    }
  }
  b.pooled = Tensor();
  CHECK_THROWS(trainer.accumulate(b, nullptr), Code::InvalidArgument);
}

TEST("a model without a text_time embedding refuses pooled text") {
  Device device = cpu();
  TrainerOptions options;
  options.scheduler_config = tiny::kDdim;
  auto unet = tiny::unet(device, {.trainable = true});
  auto opponent = copy_unet(*unet);
  Trainer trainer(std::move(unet), std::move(opponent), options);
  TrainBatch b;
  b.real = tiny::random(device, {1, 4, 8, 8}, 1);
  b.generated = tiny::random(device, {1, 4, 8, 8}, 2);
  b.text = tiny::random(device, {1, 5, 12}, 3);
  b.pooled = tiny::random(device, {1, kPooled}, 4);
  b.time_ids = {1, 2, 3, 4, 5, 6};
  CHECK_THROWS(trainer.accumulate(b, nullptr), Code::InvalidArgument);
}

TEST("a sampling step guides between the empty prompt's pooled text and the image's own") {
  Device device = cpu();
  auto unet = random_unet(device, kTextTime, {});
  SampleRequest r;
  r.cond = tiny::random(device, {2, 5, 12}, 1);
  r.uncond = tiny::random(device, {1, 5, 12}, 2);
  r.cond_pooled = tiny::random(device, {2, kPooled}, 3);
  r.uncond_pooled = tiny::random(device, {1, kPooled}, 4);
  r.time_ids = {64, 64, 0, 0, 64, 64};
  r.seeds = {7, 8};
  r.height = r.width = 8;
  // One step of DDIM from the last timestep: x0 = (x - sqrt(1 - a) e) / sqrt(a), and the step ends
  // at alpha 0's own.
  r.scheduler_config = tiny::kDdim;
  r.steps = 1;
  r.guidance_scale = 3;
  r.batch_size = 2;
  Tensor latents = sample(*unet, r, nullptr, nullptr).latents;
  NoiseSchedule schedule = NoiseSchedule::parse(tiny::kDdim);
  for (int64_t i = 0; i < 2; ++i) {
    std::vector<float> x(256);
    TorchGenerator(r.seeds[size_t(i)]).randn(x.data(), 256);
    Tensor noisy = device.empty({1, 4, 8, 8}, DType::F32);
    std::memcpy(noisy.raw(), x.data(), noisy.bytes());
    auto predict = [&](const Tensor& text, const Tensor& pooled) {
      Tape tape(device, false);
      return tiny::floats(
          to_nchw(device, unet->model.forward(tape, {.sample = to_nhwc(device, noisy, DType::F32),
                                                     .timesteps = {1},
                                                     .text = text,
                                                     .text_embeds = pooled,
                                                     .time_ids = r.time_ids})));
    };
    std::vector<float> empty = predict(r.uncond, r.uncond_pooled),
                       own = predict(row(r.cond, i), row(r.cond_pooled, i));
    double a = schedule.alphas_cumprod[1], last = schedule.alphas_cumprod[0], worst = 0;
    for (size_t j = 0; j < 256; ++j) {
      double e = empty[j] + 3.0 * (double(own[j]) - empty[j]),
             x0 = (x[j] - std::sqrt(1 - a) * e) / std::sqrt(a);
      worst = std::max(worst, std::abs(std::sqrt(last) * x0 + std::sqrt(1 - last) * e -
                                       double(latents.f32()[i * 256 + int64_t(j)])));
    }
    CHECK_THAT(worst < 1e-4, "image ", i, " differs by ", worst);
  }
}
