#include "sample/device_loop.h"

#include "models/layout.h"
#include "sample/step_table.h"

namespace spindle {

DeviceLoop::DeviceLoop(Unet& unet,
                       const SampleRequest& request,
                       const Scheduler& scheduler,
                       int64_t count)
    : unet_(unet),
      request_(request),
      scheduler_(scheduler),
      calls_(int64_t(scheduler.timesteps().size())),
      values_(count * unet.model.config().in_channels * request.height * request.width),
      graphed_(unet.device),
      model_(unet, request, count) {
  Device& device = unet.device;
  std::vector<float> table = step_table(scheduler, request.guidance_scale);
  sampler_.table = from_floats(device, table, {calls_, kSamplerColumns});
  sampler_.memory = device.empty({kSamplerRows, values_}, DType::F32);
  sampler_.at = device.empty({1}, DType::F64);
  for (int64_t i = 0; i < calls_; ++i) noisy_.push_back(scheduler.linear_step(size_t(i)).draws);
  if (std::find(noisy_.begin(), noisy_.end(), true) != noisy_.end())
    noise_ = device.empty({values_}, DType::F32);
}

void DeviceLoop::step(nn::KeysValues& kept) {
  StepKernels& kernels = unet_.device.step_kernels();
  kernels.run(
      SamplerInput{.input = model_.input(), .timesteps = model_.timesteps(), .sampler = sampler_});
  model_.forward(kept);
  kernels.run(SamplerStep{.sampler = sampler_, .output = model_.output(), .noise = noise_});
}

void DeviceLoop::run(int64_t first,
                     std::vector<TorchGenerator>& generators,
                     const Tensor& latents,
                     const CancelToken* cancel,
                     const std::function<void()>& done) {
  Device& device = unet_.device;
  int64_t size = values_ / int64_t(generators.size());
  std::vector<float> host(static_cast<size_t>(values_));
  auto draw = [&] {
    for (size_t i = 0; i < generators.size(); ++i)
      generators[i].randn(host.data() + int64_t(i) * size, size);
  };
  draw();
  scheduler_.start(host.data(), values_, request_.image_of(first, size));
  Tensor x = sampler_.memory.slice(kLatents * values_, {values_});
  device.upload(x, host.data());
  double begin = 0;
  device.upload(sampler_.at, &begin);
  model_.take(first);

  std::deque<std::unique_ptr<Event>> under_way;
  auto finish_one = [&] {
    if (under_way.front()) under_way.front()->wait();
    under_way.pop_front();
    done();
  };
  for (int64_t i = 0; i < calls_; ++i) {
    check_cancelled(cancel);
    if (noisy_[size_t(i)]) {  // PyTorch's generators are the host's; staged, while the device is
                              // busy with steps before
      draw();
      device.upload(noise_, host.data());
    }
    if (i > 0 || !began_) {
      graphed_.run("step", [&] { step(kept_); });
    } else {  // other prompts: their keys and values go where the captured steps read them
      graphed_.eager([&] {
        nn::KeysValues fresh;
        step(fresh);
        kept_.replace(device.memory(), fresh);
      });
    }
    began_ = true;
    under_way.push_back(device.memory().record_event());
    if (under_way.size() > kAhead) finish_one();
  }
  while (!under_way.empty()) {
    check_cancelled(cancel);
    finish_one();
  }
  device.memory().copy(latents, x);
}

}  // namespace spindle
