// Text-to-image sampling in latent space: initial noise from PyTorch's generator, classifier-free
// guidance, any scheduler.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "core/cancel.h"
#include "core/phases.h"
#include "models/loaded.h"

namespace spindle {

struct SampleRequest {
  Tensor cond;                  // (B, T, D) float32, text embeddings of the prompts
  Tensor uncond;                // (1, T, D) float32, of the empty prompt
  std::vector<uint64_t> seeds;  // one per image
  // Of models with the text_time embedding (SDXL) alone: the pooled embeddings (B, P) and (1, P),
  // and the sizes and crop that every image is drawn for, six numbers as released (original height
  // and width, top, left, target height and width).
  Tensor cond_pooled = {}, uncond_pooled = {};
  std::vector<float> time_ids = {};
  int64_t height = 0, width = 0;  // of the latents
  std::string scheduler_config;   // scheduler_config.json with _class_name
  int64_t steps = 20;
  // Latents (B, C, height, width) of images that drawing starts from, noised as far as `strength`
  // says (diffusers' image-to-image pipelines); empty: from noise alone.
  std::vector<float> images = {};
  double strength = 1;
  // Where image `first` begins, of `size` values each; null without images.
  const float* image_of(int64_t first, int64_t size) const {
    return images.empty() ? nullptr : images.data() + first * size;
  }
  double guidance_scale = 1;  // as in diffusers it guides above 1 only; else `uncond` is not used
  bool guided() const { return guidance_scale > 1; }
  double eta = 0;
  int64_t batch_size = 1;  // images per pass; an image does not depend on it
};

struct SampleResult {
  Tensor latents;  // (B, C, height, width) float32, as the scheduler leaves them
  std::vector<Phase> phases;
};

// After every model call: how many are done, of how many.
using SampleProgress = std::function<void(int64_t done, int64_t total)>;

SampleResult sample(Unet& unet,
                    const SampleRequest& request,
                    const CancelToken* cancel,
                    const SampleProgress& progress);

}  // namespace spindle
