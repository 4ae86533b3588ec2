// Kind scheduler: trajectories with the stand-in model eps(x, t) = 0.6 x - 0.3 roll(x, +1 along
// width) + 0.1 sin(3 x) t / 1000.
#include <cmath>

#include "core/error.h"
#include "core/rng.h"
#include "parity/parity.h"
#include "sample/scheduler.h"

namespace spindle {

namespace {
std::vector<float> stand_in(const std::vector<float>& x, size_t width, double t) {
  std::vector<float> out(x.size());
  for (size_t row = 0; row < x.size(); row += width)
    for (size_t c = 0; c < width; ++c) {
      float left = x[row + (c + width - 1) % width];
      out[row + c] =
          0.6f * x[row + c] - 0.3f * left + 0.1f * std::sin(3 * x[row + c]) * float(t) / 1000;
    }
  return out;
}

std::vector<float> trajectory(Scheduler& scheduler,
                              std::vector<float> x,
                              size_t width,
                              const NoiseSource& noise) {
  int64_t count = int64_t(x.size());
  std::vector<float> all;
  for (size_t i = 0; i < scheduler.timesteps().size(); ++i) {
    std::vector<float> input = x;
    scheduler.scale_model_input(input.data(), count, i);
    scheduler.step(x.data(), stand_in(input, width, scheduler.timesteps()[i]).data(), count, i,
                   noise);
    all.insert(all.end(), x.begin(), x.end());
  }
  return all;
}
}  // namespace

void replay_scheduler(Fixture& fixture, Device&) {
  Json config = fixture.at("config");
  config.set("_class_name", fixture.at("class"));
  std::unique_ptr<Scheduler> scheduler = make_scheduler(config);
  if (fixture.expected().find("alphas_cumprod"))
    fixture.compare("alphas_cumprod", scheduler->schedule().alphas_cumprod);

  std::vector<float> initial = fixture.inputs().floats("initial_noise");
  const std::vector<int64_t>& shape = fixture.inputs().at("initial_noise").shape;
  require(!shape.empty() && shape.back() > 0, fixture.path("inputs.safetensors"),
          ": initial_noise: expected a width, got none");
  // Fixtures of schedulers that draw noise say from which seed.
  const Json* seed = fixture.settings().find("noise_seed");
  auto noise_of_run = [&]() -> NoiseSource {
    if (!seed)
      return [](float*, int64_t) {
        throw Error(Code::Internal, "[parity] a deterministic scheduler asked for noise");
      };
    auto generator = std::make_shared<TorchGenerator>(uint64_t(seed->integer()));
    return [generator](float* out, int64_t count) { generator->randn(out, count); };
  };
  for (const Json& steps : fixture.at("steps").items()) {
    scheduler->set_timesteps(steps.integer());
    std::string suffix = "." + std::to_string(steps.integer());
    const std::vector<double>& timesteps = scheduler->timesteps();
    fixture.compare("timesteps" + suffix, {timesteps.begin(), timesteps.end()});
    std::vector<float> x = initial;
    scheduler->start(x.data(), int64_t(x.size()), nullptr);
    fixture.compare("trajectory" + suffix,
                    trajectory(*scheduler, x, size_t(shape.back()), noise_of_run()));
  }
  // Drawing from an image, "image_latents", with "noise".
  if (const Json* strength = fixture.settings().find("strength")) {
    for (const Json& steps : fixture.at("steps").items()) {
      scheduler->set_timesteps(steps.integer());
      scheduler->start_from_image(strength->number());
      std::string suffix = "." + std::to_string(steps.integer());
      const std::vector<double>& timesteps = scheduler->timesteps();
      fixture.compare("image_timesteps" + suffix, {timesteps.begin(), timesteps.end()});
      std::vector<float> x = fixture.inputs().floats("noise"),
                         image = fixture.inputs().floats("image_latents");
      scheduler->start(x.data(), int64_t(x.size()), image.data());
      fixture.compare("image_start" + suffix, x);
      fixture.compare("image_trajectory" + suffix,
                      trajectory(*scheduler, x, size_t(shape.back()), noise_of_run()));
    }
  }
  for (const FileTensor& tensor : fixture.expected().tensors()) {
    if (!tensor.name.starts_with("add_noise.t")) continue;
    std::vector<float> out(initial.size()), noise = fixture.inputs().floats("noise");
    scheduler->add_noise(out.data(), initial.data(), noise.data(), int64_t(out.size()),
                         std::stoll(tensor.name.substr(11)));
    fixture.compare(tensor.name, out);
  }
}

}  // namespace spindle
