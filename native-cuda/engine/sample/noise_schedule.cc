#include "sample/noise_schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "core/error.h"

namespace spindle {

namespace {
// torch.linspace in float32: counted from both ends.
std::vector<float> linspace(float start, float end, int64_t count) {
  std::vector<float> out(static_cast<size_t>(count));
  float step = count > 1 ? (end - start) / float(count - 1) : 0;
  for (int64_t i = 0; i < count; ++i)
    out[size_t(i)] =
        i < count / 2 || count == 1 ? start + step * float(i) : end - step * float(count - 1 - i);
  return out;
}

// As torch.cumprod: double inside, rounded at every element.
std::vector<float> cumulative_product(const std::vector<float>& alphas) {
  std::vector<float> out(alphas.size());
  double product = 1;
  for (size_t i = 0; i < alphas.size(); ++i) out[i] = float(product *= double(alphas[i]));
  return out;
}

// What a class of the library takes where a config does not say.
struct BetaDefaults {
  double start = 0.0001, end = 0.02;
  const char* schedule = "linear";
};
BetaDefaults beta_defaults(const std::string& class_name) {
  for (const char* latent : {"LCMScheduler", "TCDScheduler"})
    if (class_name == latent) return {0.00085, 0.012, "scaled_linear"};
  for (const char* karras : {"HeunDiscreteScheduler", "KDPM2DiscreteScheduler",
                             "KDPM2AncestralDiscreteScheduler", "DPMSolverSDEScheduler"})
    if (class_name == karras) return {0.00085, 0.012};
  return {};
}

std::vector<float> betas_of(const Config& config, int64_t count) {
  BetaDefaults defaults = beta_defaults(config.string("_class_name", ""));
  double start = config.number("beta_start", defaults.start),
         end = config.number("beta_end", defaults.end);
  std::string kind = config.choice(
      "beta_schedule", {"linear", "scaled_linear", "squaredcos_cap_v2"}, defaults.schedule);
  if (config.has("trained_betas")) {
    std::vector<double> given = config.numbers("trained_betas");
    require(int64_t(given.size()) == count, config.label(),
            ": trained_betas: expected num_train_timesteps = ", count, " values, got ",
            given.size());
    return {given.begin(), given.end()};
  }
  if (kind == "squaredcos_cap_v2") {
    auto alpha_bar = [](double t) {
      return std::pow(std::cos((t + 0.008) / 1.008 * std::numbers::pi / 2), 2);
    };
    std::vector<float> betas;
    for (int64_t i = 0; i < count; ++i)
      betas.push_back(float(std::min(
          1 - alpha_bar(double(i + 1) / double(count)) / alpha_bar(double(i) / double(count)),
          0.999)));
    return betas;
  }
  if (kind == "linear") return linspace(float(start), float(end), count);
  std::vector<float> betas = linspace(float(std::sqrt(start)), float(std::sqrt(end)), count);
  for (float& beta : betas) beta *= beta;
  return betas;
}

// Shifts and scales sqrt(alphas_cumprod) so that its last value is 0 (arXiv 2305.08891, algorithm
// 1).
void rescale_to_zero_terminal_snr(std::vector<float>& betas) {
  std::vector<float> alphas(betas.size());
  for (size_t i = 0; i < betas.size(); ++i) alphas[i] = 1 - betas[i];
  std::vector<float> bar = cumulative_product(alphas);
  for (float& x : bar) x = std::sqrt(x);
  float first = bar.front(), last = bar.back();
  for (float& x : bar) {
    x = (x - last) * (first / (first - last));
    x *= x;
  }
  for (size_t i = 0; i < betas.size(); ++i) betas[i] = 1 - (i == 0 ? bar[0] : bar[i] / bar[i - 1]);
}

PredictionType prediction_type_of(const Config& config) {
  std::string name =
      config.choice("prediction_type", {"epsilon", "v_prediction", "sample"}, "epsilon");
  return name == "epsilon"  ? PredictionType::Epsilon
         : name == "sample" ? PredictionType::Sample
                            : PredictionType::Velocity;
}
}  // namespace

NoiseSchedule NoiseSchedule::from_config(const Config& config) {
  // These say what noise and which times the model was trained with, whoever samples.
  config.only("timestep_type", {"discrete"});
  config.only("use_flow_sigmas", {false});
  NoiseSchedule schedule;
  schedule.num_train_timesteps = config.integer("num_train_timesteps", 1000);
  if (schedule.num_train_timesteps < 2 || schedule.num_train_timesteps > 1'000'000)
    config.refuse("num_train_timesteps", "2 to 1000000");
  std::vector<float> betas = betas_of(config, schedule.num_train_timesteps);
  for (float beta : betas)
    require(beta > 0 && beta < 1, config.label(),
            ": the beta schedule: expected values between 0 and 1, got ", beta);
  if (config.boolean("rescale_betas_zero_snr", false)) rescale_to_zero_terminal_snr(betas);
  for (float& beta : betas) beta = 1 - beta;
  schedule.alphas_cumprod = cumulative_product(betas);
  schedule.prediction_type = prediction_type_of(config);
  return schedule;
}

NoiseSchedule NoiseSchedule::parse(const std::string& scheduler_config) {
  return from_config(Config::parse(scheduler_config, "scheduler_config.json"));
}

std::array<float, 4> NoiseSchedule::coefficients(int64_t timestep) const {
  require(timestep >= 0 && timestep < num_train_timesteps, "[noise] timestep: expected 0 to ",
          num_train_timesteps - 1, ", got ", timestep);
  float signal = std::sqrt(alphas_cumprod[size_t(timestep)]),
        sigma = std::sqrt(1 - alphas_cumprod[size_t(timestep)]);
  switch (prediction_type) {
    case PredictionType::Epsilon:
      return {signal, sigma, 0, 1};
    case PredictionType::Velocity:
      return {signal, sigma, -sigma, signal};
    case PredictionType::Sample:
      return {signal, sigma, 1, 0};
  }
  return {};
}

void NoiseSchedule::add_noise(float* out,
                              const float* x,
                              const float* noise,
                              int64_t count,
                              int64_t timestep) const {
  require(timestep >= 0 && timestep < num_train_timesteps, "[add_noise] timestep: expected 0 to ",
          num_train_timesteps - 1, ", got ", timestep);
  float signal = std::sqrt(alphas_cumprod[size_t(timestep)]),
        sigma = std::sqrt(1 - alphas_cumprod[size_t(timestep)]);
  for (int64_t i = 0; i < count; ++i) out[i] = signal * x[i] + sigma * noise[i];
}

void NoiseSchedule::target(float* out,
                           const float* x,
                           const float* noise,
                           int64_t count,
                           int64_t timestep) const {
  require(timestep >= 0 && timestep < num_train_timesteps, "[target] timestep: expected 0 to ",
          num_train_timesteps - 1, ", got ", timestep);
  float signal = std::sqrt(alphas_cumprod[size_t(timestep)]),
        sigma = std::sqrt(1 - alphas_cumprod[size_t(timestep)]);
  for (int64_t i = 0; i < count; ++i) {
    switch (prediction_type) {
      case PredictionType::Epsilon:
        out[i] = noise[i];
        break;
      case PredictionType::Velocity:
        out[i] = signal * noise[i] - sigma * x[i];
        break;
      case PredictionType::Sample:
        out[i] = x[i];
        break;
    }
  }
}

}  // namespace spindle
