// The names that the original code (latent-diffusion, generative-models) gives to a U-Net's layers.
// sd-scripts trains SDXL under them.
#pragma once
#include <string>
#include <vector>

namespace spindle {

// For each of diffusers' names, without ".weight", the original one: for
// down_blocks.1.attentions.0.proj_in of SDXL input_blocks.4.1.proj_in. Empty where that code has no
// such layer. `layers` are all of the model's: blocks are counted from them.
std::vector<std::string> ldm_unet_names(const std::vector<std::string>& layers);

}  // namespace spindle
