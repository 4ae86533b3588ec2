// The models that benchmarks run: shapes that are published, and one smaller, with random weights,
// or a pipeline folder.
#pragma once
#include <string>

#include "models/loaded.h"

namespace spindle {

// Tokens of a prompt in benchmarks.
int64_t bench_text_length(const std::string& model);
// Height and width of the latents that the model was made for.
int64_t bench_latent_size(const std::string& model);
// config.json of the U-Net.
std::string bench_unet_config(const std::string& model);
// "sd15", "sdxl", "small" or a diffusers folder with unet/ (and vae/).
std::unique_ptr<Unet> bench_unet(Device& device,
                                 const std::string& model,
                                 const LoadPrecision& precision);
std::unique_ptr<Vae> bench_vae(Device& device,
                               const std::string& model,
                               const LoadPrecision& precision);
// A U-Net of this config with random weights, the same for the same config.
std::unique_ptr<Unet> random_unet(Device& device,
                                  const std::string& config,
                                  const LoadPrecision& precision);
// A second model with the same weights, without gradients.
std::unique_ptr<Unet> copy_unet(Unet& unet);

}  // namespace spindle
