#include "sample/timestep_spacing.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"

namespace spindle {

std::vector<double> linspace_timesteps(int64_t last, int64_t steps, bool rounded) {
  std::vector<double> out(static_cast<size_t>(steps));
  double step = steps > 1 ? double(last - 1) / double(steps - 1) : 0;
  for (int64_t i = 0; i < steps; ++i) {
    double t = i == steps - 1 && steps > 1 ? double(last - 1) : double(i) * step;
    out[size_t(steps - 1 - i)] =
        rounded ? std::nearbyint(t) : t;  // halves to even, as numpy rounds
  }
  return out;
}

std::vector<double> leading_timesteps(int64_t ratio, int64_t steps, int64_t offset) {
  std::vector<double> out;
  for (int64_t i = steps - 1; i >= 0; --i) out.push_back(double(i * ratio + offset));
  return out;
}

std::vector<double> trailing_timesteps(int64_t last, int64_t num_train_timesteps, int64_t steps) {
  double ratio = double(num_train_timesteps) / double(steps);
  int64_t count = int64_t(std::ceil(double(last) / ratio));
  double delta = (double(last) - ratio) -
                 double(last);  // numpy.arange steps by the difference of its first two values
  std::vector<double> out;
  for (int64_t i = 0; i < count; ++i)
    out.push_back(std::nearbyint(double(last) + double(i) * delta) - 1);
  return out;
}

std::vector<double> sigma_spaced_timesteps(const std::string& spacing,
                                           int64_t num_train_timesteps,
                                           int64_t steps,
                                           int64_t offset) {
  int64_t n = num_train_timesteps;
  std::vector<double> out = spacing == "linspace"  ? linspace_timesteps(n, steps, false)
                            : spacing == "leading" ? leading_timesteps(n / steps, steps, offset)
                                                   : trailing_timesteps(n, n, steps);
  for (double& t : out) t = double(float(t));
  return out;
}

std::vector<double> multistep_timesteps(const std::string& spacing,
                                        int64_t num_train_timesteps,
                                        int64_t steps,
                                        int64_t offset) {
  int64_t n = num_train_timesteps;
  if (spacing == "trailing") return trailing_timesteps(n, n, steps);
  std::vector<double> out = spacing == "linspace"
                                ? linspace_timesteps(n, steps + 1, true)
                                : leading_timesteps(n / (steps + 1), steps + 1, offset);
  out.pop_back();
  return out;
}

double init_sigma(const std::vector<double>& sigmas, const std::string& spacing) {
  double sigma = *std::max_element(sigmas.begin(), sigmas.end());
  return spacing == "leading" ? std::sqrt(sigma * sigma + 1) : sigma;
}

void add_sigma_noise(const std::vector<float>& alphas_cumprod,
                     float* out,
                     const float* x,
                     const float* noise,
                     int64_t count,
                     int64_t timestep) {
  require(timestep >= 0 && timestep < int64_t(alphas_cumprod.size()),
          "[add_noise] timestep: expected 0 to ", alphas_cumprod.size() - 1, ", got ", timestep);
  float sigma = float(training_sigmas(alphas_cumprod)[size_t(timestep)]);
  for (int64_t k = 0; k < count; ++k) out[k] = x[k] + sigma * noise[k];
}

std::vector<double> training_sigmas(const std::vector<float>& alphas_cumprod) {
  std::vector<double> out;
  out.reserve(alphas_cumprod.size());
  for (float a : alphas_cumprod) out.push_back(double(std::sqrt((1 - a) / a)));
  return out;
}

double interpolate(double x, const std::vector<double>& values) {
  if (x <= 0) return values.front();
  if (x >= double(values.size() - 1)) return values.back();
  size_t low = size_t(x);
  double w = x - double(low);
  return values[low] + w * (values[low + 1] - values[low]);
}

double sigma_to_timestep(double sigma, const std::vector<double>& sigmas) {
  size_t above = size_t(std::upper_bound(sigmas.begin(), sigmas.end(), sigma) - sigmas.begin());
  size_t low = std::min(above == 0 ? 0 : above - 1, sigmas.size() - 2);
  double log_low = std::log(sigmas[low]), log_high = std::log(sigmas[low + 1]),
         log_sigma = std::log(std::max(sigma, 1e-10));
  double w = std::clamp((log_low - log_sigma) / (log_low - log_high), 0.0, 1.0);
  return (1 - w) * double(low) + w * double(low + 1);
}

std::vector<double> karras_sigmas(double sigma_max, double sigma_min, int64_t steps) {
  constexpr double rho = 7;
  double low = std::pow(sigma_min, 1 / rho), high = std::pow(sigma_max, 1 / rho);
  std::vector<double> out;
  for (int64_t i = 0; i < steps; ++i)
    out.push_back(
        std::pow(high + (steps > 1 ? double(i) / double(steps - 1) : 0) * (low - high), rho));
  return out;
}

}  // namespace spindle
