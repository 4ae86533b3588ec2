#include "sample/sample.h"

#include <algorithm>
#include <cmath>

#include "core/rng.h"
#include "sample/device_loop.h"
#include "sample/guided_model.h"
#include "sample/scheduler.h"

namespace spindle {

namespace {

void check(const UNet2DConditionConfig& config, const SampleRequest& r) {
  int64_t images = int64_t(r.seeds.size());
  require(config.in_channels == config.out_channels,
          "[sample] expected a model with as many output as input channels, got ",
          config.out_channels, " and ", config.in_channels);
  require(images > 0, "[sample] seeds: expected one per image, got none");
  require(r.height > 0 && r.width > 0, "[sample] height and width: expected positive numbers, got ",
          r.height, " and ", r.width);
  require(r.steps > 0, "[sample] steps: expected a positive number, got ", r.steps);
  require(r.batch_size > 0, "[sample] batch_size: expected a positive number, got ", r.batch_size);
  size_t values = size_t(images * config.in_channels * r.height * r.width);
  require(r.images.empty() || r.images.size() == values, "[sample] images: expected (", images,
          ", ", config.in_channels, ", ", r.height, ", ", r.width, "), got ", r.images.size(),
          " values");
  require(r.cond.rank() == 3 && r.cond.dim(0) == images, "[sample] cond: expected (", images,
          ", T, D), got ", r.cond.shape());
  if (r.guided())
    require(r.uncond && r.uncond.shape() == Shape{1, r.cond.dim(1), r.cond.dim(2)},
            "[sample] uncond: expected (1, ", r.cond.dim(1), ", ", r.cond.dim(2), "), got ",
            r.uncond ? r.uncond.shape() : Shape());
  require(
      bool(r.cond_pooled) == config.text_time() && r.time_ids.empty() != config.text_time(),
      "[sample] cond_pooled and time_ids: expected ",
      config.text_time() ? "both with this model's text_time embedding" : "none with this model");
  if (!config.text_time()) return;
  require(r.cond_pooled.rank() == 2 && r.cond_pooled.dim(0) == images,
          "[sample] cond_pooled: expected (", images, ", P), got ", r.cond_pooled.shape());
  if (r.guided())
    require(r.uncond_pooled && r.uncond_pooled.shape() == Shape{1, r.cond_pooled.dim(1)},
            "[sample] uncond_pooled: expected (1, ", r.cond_pooled.dim(1), "), got ",
            r.uncond_pooled ? r.uncond_pooled.shape() : Shape());
}

void set_timesteps(Scheduler& scheduler, const SampleRequest& r) {
  scheduler.set_timesteps(r.steps);
  if (!r.images.empty()) scheduler.start_from_image(r.strength);
}

std::vector<TorchGenerator> generators_of(const SampleRequest& r, int64_t first, int64_t count) {
  std::vector<TorchGenerator> generators;
  for (int64_t i = 0; i < count; ++i) generators.emplace_back(r.seeds[size_t(first + i)]);
  return generators;
}

// One pass's images, from noise to latents, in host memory, NCHW: the scheduler works on plain
// floats.
class HostPass {
 public:
  HostPass(Unet& unet, const SampleRequest& r, int64_t first, int64_t count)
      : unet_(unet),
        r_(r),
        count_(count),
        size_(unet.model.config().in_channels * r.height * r.width),
        latents_(size_t(count * size_)),
        model_(unet, r, count),
        generators_(generators_of(r, first, count)) {
    model_.take(first);
    draw_noise(latents_.data());
  }

  std::vector<float>& latents() { return latents_; }

  // Every image's noise comes from its own generator, in the order in which the library would draw
  // it.
  void draw_noise(float* out) {
    for (int64_t i = 0; i < count_; ++i) generators_[size_t(i)].randn(out + i * size_, size_);
  }

  // The guided prediction for `input`, already scaled for the model.
  const std::vector<float>& predict(const std::vector<float>& input, double timestep) {
    Device& device = unet_.device;
    int64_t copies = model_.copies(), total = count_ * size_;
    for (int64_t c = 0; c < copies; ++c)
      device.upload(model_.input().slice(c * total, {total}), input.data());
    device.upload(model_.timesteps(),
                  std::vector<float>(size_t(copies * count_), float(timestep)).data());
    model_.forward(kept_);
    std::vector<float> host = device.download<float>(model_.output());
    const float* uncond = host.data();
    prediction_.assign(uncond, uncond + total);
    if (copies == 2) {
      const float* cond = uncond + total;
      float scale = float(r_.guidance_scale);
      for (int64_t i = 0; i < total; ++i)
        prediction_[size_t(i)] = uncond[i] + scale * (cond[i] - uncond[i]);
    }
    return prediction_;
  }

 private:
  Unet& unet_;
  const SampleRequest& r_;
  int64_t count_, size_;
  std::vector<float> latents_, prediction_;
  GuidedModel model_;
  nn::KeysValues kept_;
  std::vector<TorchGenerator> generators_;
};

// No picture can be made of NaN: `when` tells after which step. Images of `size` values each.
void check_finite(const std::vector<float>& latents, int64_t size, const std::string& when) {
  auto broken = std::find_if(latents.begin(), latents.end(),
                             [](float value) { return !std::isfinite(value); });
  if (broken == latents.end()) return;
  throw Error(Code::Diverged, cat("[sample] ", when, ": expected finite latents, got ",
                                  std::isnan(*broken) ? "NaN" : "infinity", " for image ",
                                  (broken - latents.begin()) / size, " of the batch"));
}

// What happens beside a pass.
struct Watch {
  PhaseClock& clock;
  const CancelToken* cancel;
  std::function<void()> done;  // after every model call
};

void host_pass(Unet& unet,
               const SampleRequest& request,
               Scheduler& scheduler,
               int64_t first,
               int64_t count,
               const Tensor& latents,
               const Watch& watch) {
  int64_t values = latents.numel();
  HostPass pass(unet, request, first, count);
  std::vector<float>& x = pass.latents();
  scheduler.start(x.data(), values, request.image_of(first, values / count));
  NoiseSource noise = [&](float* out, int64_t n) {
    ensure(n == values, "[sample] the scheduler asked for ", n, " random values, not ", values);
    pass.draw_noise(out);
  };
  std::vector<float> input;
  for (size_t i = 0; i < scheduler.timesteps().size(); ++i) {
    check_cancelled(watch.cancel);
    input = x;
    scheduler.scale_model_input(input.data(), values, i);
    const std::vector<float>& output =
        watch.clock.time("unet_steps", [&]() -> const std::vector<float>& {
          return pass.predict(input, scheduler.timesteps()[i]);
        });
    watch.clock.time("scheduler",
                     [&] { scheduler.step(x.data(), output.data(), values, i, noise); });
    check_finite(x, values / count,
                 cat("step ", i + 1, " of ", scheduler.timesteps().size(), " (timestep ",
                     scheduler.timesteps()[i], ")"));
    watch.done();
  }
  unet.device.upload(latents, x.data());
}

}  // namespace

SampleResult sample(Unet& unet,
                    const SampleRequest& request,
                    const CancelToken* cancel,
                    const SampleProgress& progress) {
  const UNet2DConditionConfig& config = unet.model.config();
  check(config, request);
  std::unique_ptr<Scheduler> scheduler = make_scheduler(request.scheduler_config, request.eta);
  set_timesteps(*scheduler, request);
  int64_t images = int64_t(request.seeds.size()), calls = int64_t(scheduler->timesteps().size());
  int64_t total = (images + request.batch_size - 1) / request.batch_size * calls, done = 0;
  int64_t size = config.in_channels * request.height * request.width;
  SampleResult result;
  result.latents =
      unet.device.empty({images, config.in_channels, request.height, request.width}, DType::F32);
  PhaseClock clock;
  Watch watch{clock, cancel, [&] {
                if (progress) progress(++done, total);
              }};
  std::unique_ptr<DeviceLoop> loop;  // of passes of one size: only the last may be smaller
  int64_t loop_count = 0;
  for (int64_t first = 0; first < images; first += request.batch_size) {
    int64_t count = std::min(request.batch_size, images - first);
    Tensor latents = result.latents.slice(first * size, {count * size});
    set_timesteps(*scheduler, request);  // forgets the last pass
    if (unet.device.host_visible()) {
      host_pass(unet, request, *scheduler, first, count, latents, watch);
      continue;
    }
    clock.time("unet_steps", [&] {  // the scheduler's steps included
      if (loop_count != count) {
        loop = {};  // its memory first
        loop = std::make_unique<DeviceLoop>(unet, request, *scheduler, count);
        loop_count = count;
      }
      std::vector<TorchGenerator> generators = generators_of(request, first, count);
      loop->run(first, generators, latents, cancel, watch.done);
    });
    // Not after every step: the device would have to wait for the host.
    check_finite(unet.device.download<float>(latents), size,
                 cat("after step ", calls, " of ", calls));
  }
  result.phases = clock.phases();
  return result;
}

}  // namespace spindle
