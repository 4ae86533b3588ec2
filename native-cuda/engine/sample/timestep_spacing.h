// Which training timesteps a sampler visits, and the interpolations over them, as numpy computes
// them for diffusers.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace spindle {

// Falling. "linspace": `steps` values from last - 1 to 0, rounded unless told otherwise. "leading":
// multiples of a whole ratio, plus offset. "trailing": from last - 1 downwards.
std::vector<double> linspace_timesteps(int64_t last, int64_t steps, bool rounded);
std::vector<double> leading_timesteps(int64_t ratio, int64_t steps, int64_t offset);
std::vector<double> trailing_timesteps(int64_t last, int64_t num_train_timesteps, int64_t steps);

// As Euler's, Heun's and the like space them: float32, and not rounded with linspace.
std::vector<double> sigma_spaced_timesteps(const std::string& spacing,
                                           int64_t num_train_timesteps,
                                           int64_t steps,
                                           int64_t offset);
// As the multistep solvers space them: whole, and the last one is not 0.
std::vector<double> multistep_timesteps(const std::string& spacing,
                                        int64_t num_train_timesteps,
                                        int64_t steps,
                                        int64_t offset);

// sqrt((1 - a) / a) of every training timestep: rising.
std::vector<double> training_sigmas(const std::vector<float>& alphas_cumprod);
// Of schedulers whose latents are x0 + sigma noise: the scale of the initial noise, and the noise
// that training adds.
double init_sigma(const std::vector<double>& sigmas, const std::string& spacing);
void add_sigma_noise(const std::vector<float>& alphas_cumprod,
                     float* out,
                     const float* x,
                     const float* noise,
                     int64_t count,
                     int64_t timestep);
// numpy.interp(x, 0..n-1, values)
double interpolate(double x, const std::vector<double>& values);
// The inverse, over log(sigma).
double sigma_to_timestep(double sigma, const std::vector<double>& sigmas);
// `steps` sigmas between the two, rho = 7 (arXiv 2206.00364).
std::vector<double> karras_sigmas(double sigma_max, double sigma_min, int64_t steps);

}  // namespace spindle
