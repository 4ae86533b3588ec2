#include "sample/sample.h"

#include <algorithm>

#include "autograd/repeated.h"
#include "core/rng.h"
#include "models/layout.h"
#include "sample/scheduler.h"

namespace spindle {

namespace {

void check(const UNet2DConditionConfig& config, const SampleRequest& r) {
  int64_t images = int64_t(r.seeds.size());
  require(config.in_channels == config.out_channels, "[sample] expected a model with as many output as input channels, got ", config.out_channels, " and ", config.in_channels);
  require(images > 0, "[sample] seeds: expected one per image, got none");
  require(r.height > 0 && r.width > 0, "[sample] height and width: expected positive numbers, got ", r.height, " and ", r.width);
  require(r.steps > 0, "[sample] steps: expected a positive number, got ", r.steps);
  require(r.batch_size > 0, "[sample] batch_size: expected a positive number, got ", r.batch_size);
  require(r.cond.rank() == 3 && r.cond.dim(0) == images, "[sample] cond: expected (", images, ", T, D), got ", r.cond.shape());
  if (r.guidance_scale != 1)
    require(r.uncond && r.uncond.shape() == Shape{1, r.cond.dim(1), r.cond.dim(2)}, "[sample] uncond: expected (1, ", r.cond.dim(1), ", ", r.cond.dim(2), "), got ", r.uncond ? r.uncond.shape() : Shape());
  require(bool(r.cond_pooled) == config.text_time() && r.time_ids.empty() != config.text_time(), "[sample] cond_pooled and time_ids: expected ", config.text_time() ? "both with this model's text_time embedding" : "none with this model");
  if (!config.text_time()) return;
  require(r.cond_pooled.rank() == 2 && r.cond_pooled.dim(0) == images, "[sample] cond_pooled: expected (", images, ", P), got ", r.cond_pooled.shape());
  if (r.guidance_scale != 1) require(r.uncond_pooled && r.uncond_pooled.shape() == Shape{1, r.cond_pooled.dim(1)}, "[sample] uncond_pooled: expected (1, ", r.cond_pooled.dim(1), "), got ", r.uncond_pooled ? r.uncond_pooled.shape() : Shape());
}

// One pass's images, from noise to latents. Host memory, NCHW: the scheduler works on plain floats.
class Pass {
 public:
  Pass(Unet& unet, const SampleRequest& r, int64_t first, int64_t count)
      : unet_(unet), r_(r), count_(count), size_(unet.model.config().in_channels * r.height * r.width), guided_(r.guidance_scale != 1), latents_(size_t(count * size_)), repeated_(unet.device), text_(rows(r.cond, r.uncond, first)) {
    if (r.cond_pooled) pooled_ = rows(r.cond_pooled, r.uncond_pooled, first);
    std::vector<float> time_ids;
    for (int64_t i = 0; pooled_ && i < pooled_.dim(0); ++i) time_ids.insert(time_ids.end(), r.time_ids.begin(), r.time_ids.end());
    if (!time_ids.empty()) time_ids_ = from_floats(unet.device, time_ids, {int64_t(time_ids.size())});
    for (int64_t i = 0; i < count; ++i) generators_.emplace_back(r.seeds[size_t(first + i)]);
    draw_noise(latents_.data());
  }

  std::vector<float>& latents() { return latents_; }

  // Every image's noise comes from its own generator, in the order in which the library would draw it.
  void draw_noise(float* out) {
    for (int64_t i = 0; i < count_; ++i) generators_[size_t(i)].randn(out + i * size_, size_);
  }

  // The guided prediction for `input`, already scaled for the model.
  const std::vector<float>& predict(const std::vector<float>& input, double timestep) {
    Device& device = unet_.device;
    const UNet2DConditionConfig& config = unet_.model.config();
    int64_t copies = guided_ ? 2 : 1, total = count_ * size_;
    // Kept from step to step: what a device captured has their addresses.
    Shape shape{copies * count_, config.in_channels, r_.height, r_.width};
    if (!input_) {
      input_ = device.empty(shape, DType::F32);
      timesteps_ = device.empty({copies * count_}, DType::F32);
      output_ = device.empty(shape, DType::F32);
    }
    for (int64_t c = 0; c < copies; ++c) device.upload(input_.slice(c * total, {total}), input.data());
    device.upload(timesteps_, std::vector<float>(size_t(copies * count_), float(timestep)).data());
    repeated_.run("step", [&] {
      Tape tape(device, false);
      device.kernels().nhwc_to_nchw(output_, unet_.model.forward(tape, {.sample = to_nhwc(device, input_, unet_.store.compute()), .text = text_, .kept = &kept_, .text_embeds = pooled_, .timestep_values = timesteps_, .time_id_values = time_ids_}));
    });
    std::vector<float> host = device.download<float>(output_);
    const float* uncond = host.data();
    prediction_.assign(uncond, uncond + total);
    if (guided_) {
      const float* cond = uncond + total;
      float scale = float(r_.guidance_scale);
      for (int64_t i = 0; i < total; ++i) prediction_[size_t(i)] = uncond[i] + scale * (cond[i] - uncond[i]);
    }
    return prediction_;
  }

 private:
  // Empty prompts first, then the images' own: (2B, …), or (B, …) without guidance.
  Tensor rows(const Tensor& cond, const Tensor& uncond, int64_t first) const {
    Device& device = unet_.device;
    std::vector<int64_t> dims = cond.shape().dims();
    int64_t row = cond.numel() / dims[0];
    dims[0] = (guided_ ? 2 : 1) * count_;
    Tensor all = device.empty(Shape(dims), DType::F32);
    int64_t out = 0;
    if (guided_)
      for (int64_t i = 0; i < count_; ++i, out += row) device.kernels().copy(all.slice(out, {row}), uncond.slice(0, {row}));
    device.kernels().copy(all.slice(out, {count_ * row}), cond.slice(first * row, {count_ * row}));
    return to_dtype(device, all, unet_.store.compute());
  }

  Unet& unet_;
  const SampleRequest& r_;
  int64_t count_, size_;
  bool guided_;
  std::vector<float> latents_, prediction_;
  Repeated repeated_;  // the first step fills kept_, the second is captured
  Tensor text_, pooled_, time_ids_;  // pooled and its ids: empty without text_time embedding
  Tensor input_, timesteps_, output_;
  nn::KeysValues kept_;
  std::vector<TorchGenerator> generators_;
};

}  // namespace

SampleResult sample(Unet& unet, const SampleRequest& request, const CancelToken* cancel, const SampleProgress& progress) {
  const UNet2DConditionConfig& config = unet.model.config();
  check(config, request);
  std::unique_ptr<Scheduler> scheduler = make_scheduler(request.scheduler_config, request.eta);
  scheduler->set_timesteps(request.steps);
  int64_t images = int64_t(request.seeds.size()), calls = int64_t(scheduler->timesteps().size());
  int64_t total = (images + request.batch_size - 1) / request.batch_size * calls, done = 0;
  int64_t size = config.in_channels * request.height * request.width;
  SampleResult result;
  result.latents = unet.device.empty({images, config.in_channels, request.height, request.width}, DType::F32);
  PhaseClock clock;
  for (int64_t first = 0; first < images; first += request.batch_size) {
    int64_t count = std::min(request.batch_size, images - first), values = count * size;
    scheduler->set_timesteps(request.steps);  // forgets the last pass
    Pass pass(unet, request, first, count);
    std::vector<float>& x = pass.latents();
    for (float& value : x) value *= float(scheduler->init_noise_sigma());
    NoiseSource noise = [&](float* out, int64_t n) {
      ensure(n == values, "[sample] the scheduler asked for ", n, " random values, not ", values);
      pass.draw_noise(out);
    };
    std::vector<float> input;
    for (int64_t i = 0; i < calls; ++i) {
      check_cancelled(cancel);
      input = x;
      scheduler->scale_model_input(input.data(), values, size_t(i));
      const std::vector<float>& output = clock.time("unet_steps", [&]() -> const std::vector<float>& { return pass.predict(input, scheduler->timesteps()[size_t(i)]); });
      clock.time("scheduler", [&] { scheduler->step(x.data(), output.data(), values, size_t(i), noise); });
      if (progress) progress(++done, total);
    }
    unet.device.upload(result.latents.slice(first * size, {values}), x.data());
  }
  result.phases = clock.phases();
  return result;
}

}  // namespace spindle
