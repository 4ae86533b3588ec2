// Forward passes as callers outside the engine see them: float32, PyTorch's layout, no gradients.
#pragma once
#include "core/cancel.h"
#include "core/phases.h"
#include "models/aesthetic.h"
#include "models/loaded.h"

namespace spindle {

// sample (B,C,h,w), timesteps (B), text (B,T,D) -> (B,C,h,w); of models with the text_time
// embedding (SDXL) also pooled (B,P) and time_ids, B rows
Tensor unet_forward(Unet& unet,
                    const Tensor& sample,
                    const std::vector<float>& timesteps,
                    const Tensor& text,
                    const Tensor& pooled = {},
                    const std::vector<float>& time_ids = {});

struct VaeMoments {
  Tensor mean, logvar;  // (B,C,h,w), unscaled; logvar within [-30, 20]
  std::vector<Phase> phases;
};
// pixels (B,3,H,W) in [-1, 1]
VaeMoments vae_encode(Vae& vae, const Tensor& pixels, const CancelToken* cancel);

struct VaeImages {
  Tensor pixels;  // (B,3,H,W), nominally in [-1, 1], not clamped
  std::vector<Phase> phases;
};
// latents (B,C,h,w), unscaled
VaeImages vae_decode(Vae& vae, const Tensor& latents, const CancelToken* cancel);

struct ClipTextStates {
  Tensor last_hidden_state, penultimate;  // (B,T,D)
  Tensor pooled;                          // (B,D), or (B,P) where the model projects it
  std::vector<Phase> phases;
};
ClipTextStates clip_text_encode(ClipText& model,
                                const std::vector<int32_t>& ids,
                                int64_t batch,
                                const CancelToken* cancel);

// Projected, L2-normalised (B,P).
Tensor clip_image_embed(Clip& model, const Tensor& pixels);
Tensor clip_text_embed(Clip& model, const std::vector<int32_t>& ids, int64_t batch);
// embeds (B,P), L2-normalised -> (B)
std::vector<float> aesthetic_score(Aesthetic& model, const Tensor& embeds);

}  // namespace spindle
