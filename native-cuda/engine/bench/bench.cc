#include "bench/bench.h"

#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <numeric>
#include <optional>

#include "bench/models.h"
#include "bench/profile.h"
#include "core/rng.h"
#include "core/version.h"
#include "models/inference.h"
#include "models/layout.h"
#include "sample/sample.h"
#include "train/trainer.h"

namespace spindle {

namespace {

const char* const kDdim =
    R"({"_class_name":"DDIMScheduler","num_train_timesteps":1000,"beta_start":0.00085,"beta_end":0.012,"beta_schedule":"scaled_linear","clip_sample":false,"set_alpha_to_one":false,"steps_offset":1})";

// A task made ready: what is timed, and what one run of it yields.
struct Task {
  std::function<void()> work;
  std::string unit;
};

Tensor random_tensor(Device& device, const Shape& shape, uint32_t which) {
  Tensor t = device.empty(shape, DType::F32);
  std::vector<float> values(size_t(t.numel()));
  Philox(1, 0).normal(values.data(), t.numel(), which, 0, Draw::Test);
  device.upload(t, values.data());
  return t;
}

std::vector<int64_t> random_timesteps(int64_t count) {
  std::vector<int64_t> timesteps;
  for (int64_t i = 0; i < count; ++i)
    timesteps.push_back(int64_t(Philox(2, 0).integer(0, uint32_t(i), Draw::Timestep, 1000)));
  return timesteps;
}

Shape latent_shape(const UNet2DConditionConfig& config, int64_t batch) {
  return {batch, config.in_channels, config.sample_height, config.sample_width};
}

// What the text_time embedding (SDXL) takes beside the timestep: the pooled prompts, and a whole
// picture's sizes and crop for every image.
int64_t pooled_width(const UNet2DConditionConfig& config) {
  return config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim;
}

Tensor random_pooled(Device& device,
                     const UNet2DConditionConfig& config,
                     int64_t rows,
                     uint32_t which) {
  return config.text_time() ? random_tensor(device, {rows, pooled_width(config)}, which) : Tensor();
}

std::vector<float> whole_picture(const UNet2DConditionConfig& config, int64_t images) {
  float height = float(8 * config.sample_height), width = float(8 * config.sample_width);
  std::vector<float> ids;
  for (int64_t i = 0; config.text_time() && i < images; ++i)
    ids.insert(ids.end(), {height, width, 0, 0, height, width});
  return ids;
}

Task unet_forward_task(Device& device, const BenchOptions& o) {
  std::shared_ptr<Unet> unet = bench_unet(device, o.model, {.compute = o.compute});
  const UNet2DConditionConfig& config = unet->model.config();
  std::vector<int64_t> t = random_timesteps(o.batch);
  return {
      [unet, sample = random_tensor(device, latent_shape(config, o.batch), 0),
       text = random_tensor(device,
                            {o.batch, bench_text_length(o.model), config.cross_attention_dim}, 1),
       timesteps = std::vector<float>(t.begin(), t.end()),
       pooled = random_pooled(device, config, o.batch, 2), ids = whole_picture(config, o.batch)] {
        unet_forward(*unet, sample, timesteps, text, pooled, ids);
      },
      "forwards"};
}

// A whole optimiser step, as in the peer's benchmark: opponent forward, forward and backward on
// real and generated, clipping, AdamW.
std::function<void()> spin_step(std::unique_ptr<Unet> unet,
                                int64_t pairs,
                                int64_t text_length,
                                bool checkpointing = false) {
  Device& device = unet->device;
  UNet2DConditionConfig config = unet->model.config();
  TrainerOptions options;
  options.compute = unet->store.compute();
  options.scheduler_config = kDdim;
  options.learning_rate = {.base = 1e-5};
  options.activation_checkpointing = checkpointing;
  std::unique_ptr<Unet> opponent = copy_unet(*unet);
  auto trainer = std::make_shared<Trainer>(std::move(unet), std::move(opponent), options);
  TrainBatch batch;
  batch.step_batch_size = pairs;
  batch.real = random_tensor(device, latent_shape(config, pairs), 0);
  batch.generated = random_tensor(device, latent_shape(config, pairs), 1);
  batch.noise = random_tensor(device, latent_shape(config, pairs), 2);
  batch.text = random_tensor(device, {pairs, text_length, config.cross_attention_dim}, 3);
  batch.timesteps = random_timesteps(pairs);
  batch.pooled = random_pooled(device, config, pairs, 4);
  batch.time_ids = whole_picture(config, pairs);
  return [trainer, batch]() mutable {
    trainer->accumulate(batch, nullptr);
    trainer->apply(batch.step++);
  };
}

Task sample_task(Device& device, const BenchOptions& o) {
  std::shared_ptr<Unet> unet = bench_unet(device, o.model, {.compute = o.compute});
  const UNet2DConditionConfig& config = unet->model.config();
  SampleRequest request;
  request.cond =
      random_tensor(device, {o.batch, bench_text_length(o.model), config.cross_attention_dim}, 0);
  request.uncond =
      random_tensor(device, {1, bench_text_length(o.model), config.cross_attention_dim}, 1);
  request.cond_pooled = random_pooled(device, config, o.batch, 2);
  request.uncond_pooled = random_pooled(device, config, 1, 3);
  request.time_ids = whole_picture(config, 1);
  for (int64_t i = 0; i < o.batch; ++i) request.seeds.push_back(uint64_t(i));
  request.height = config.sample_height;
  request.width = config.sample_width;
  request.scheduler_config = kDdim;
  request.steps = o.steps;
  request.guidance_scale = 7.5;
  request.batch_size = o.batch;
  return {[unet, request] { sample(*unet, request, nullptr, nullptr); }, "images"};
}

Task vae_task(Device& device, const BenchOptions& o, bool encode) {
  int64_t size = bench_latent_size(o.model);  // pictures of the size that the whole pipeline makes
  std::shared_ptr<Vae> vae = bench_vae(device, o.model, {.compute = o.compute});
  const AutoencoderKLConfig& config = vae->model.config();
  if (encode)
    return {[vae, pixels = random_tensor(device,
                                         {o.batch, config.in_channels, size * config.reduction(),
                                          size * config.reduction()},
                                         0)] { vae_encode(*vae, pixels, nullptr); },
            "images"};
  return {[vae, latents = random_tensor(device, {o.batch, config.latent_channels, size, size}, 0)] {
            vae_decode(*vae, latents, nullptr);
          },
          "images"};
}

Task make_task(Device& device, const BenchOptions& o) {
  if (o.task == "unet_forward") return unet_forward_task(device, o);
  if (o.task == "spin_step")
    return {spin_step(bench_unet(device, o.model, {.compute = o.compute, .trainable = true}),
                      o.batch, bench_text_length(o.model), o.checkpointing),
            "pairs"};
  if (o.task == "sample") return sample_task(device, o);
  require(o.task == "vae_encode" || o.task == "vae_decode",
          "[bench] task: expected unet_forward, spin_step, sample, vae_encode or vae_decode, got ",
          o.task);
  return vae_task(device, o, o.task == "vae_encode");
}

// Sorted, warm-up left out; `warm` is called where it ends.
std::vector<double> time_runs(const std::function<void()>& work,
                              int64_t warmup,
                              int64_t repeat,
                              const std::function<void()>& warm = nullptr) {
  std::vector<double> seconds;
  for (int64_t i = 0; i < warmup + repeat; ++i) {
    if (i == warmup && warm) warm();
    auto start = std::chrono::steady_clock::now();
    work();
    if (i >= warmup)
      seconds.push_back(
          std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  std::sort(seconds.begin(), seconds.end());
  return seconds;
}

double peak_mib() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return double(usage.ru_maxrss) / 1024;  // kilobytes on Linux
}

}  // namespace

Json run_bench(Device& device, const BenchOptions& o) {
  require(o.batch > 0 && o.repeat > 0 && o.warmup >= 0 && o.steps > 0,
          "[bench] batch, repeat and steps: expected positive numbers, got ", o.batch, ", ",
          o.repeat, " and ", o.steps);
  Task task = make_task(device, o);
  std::optional<DeviceProfile> profile;
  if (o.profile) profile.emplace(device);
  std::vector<double> seconds = time_runs(task.work, o.warmup, o.repeat, [&] {
    device.pool().reset_peak();
    if (profile) profile->restart();
  });
  double median = seconds[seconds.size() / 2];
  Json result = Json::Object{};
  result.set("peer", cat("spindle ", kVersion, " ", device.isa()));
  result.set("model", o.model);
  result.set("task", o.task);
  result.set("dtype", dtype_name(o.compute));
  result.set("device", device.backend());
  result.set("batch", o.batch);
  result.set("seconds_median", median);
  result.set("seconds_min", seconds.front());
  result.set(task.unit + "_per_second", double(o.batch) / median);
  result.set("peak_mib", peak_mib());
  // Last: measuring the machine's peak takes memory of its own.
  if (profile)
    result.set(
        "profile",
        profile->report(o.repeat, std::accumulate(seconds.begin(), seconds.end(), 0.0), o.compute));
  return result;
}

PrecisionTimes measure_precision(Device& device) {
  // The shape of the small published models, narrow enough to take well under a second.
  const char* config =
      R"({"sample_size":16,"block_out_channels":[64,96,128],"layers_per_block":1,"cross_attention_dim":128,"attention_head_dim":4,
    "down_block_types":["CrossAttnDownBlock2D","CrossAttnDownBlock2D","DownBlock2D"],"up_block_types":["UpBlock2D","CrossAttnUpBlock2D","CrossAttnUpBlock2D"]})";
  auto seconds = [&](DType compute) {
    return time_runs(spin_step(random_unet(device, config, {.compute = compute, .trainable = true}),
                               8, 32),
                     1, 3)
        .front();
  };
  return {.float32 = seconds(DType::F32), .bfloat16 = seconds(DType::BF16)};
}

}  // namespace spindle
