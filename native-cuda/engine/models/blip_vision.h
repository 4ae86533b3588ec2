// The vision tower of BLIP (a ViT as timm writes it): class token, patches with bias, pre-norm
// layers, a norm over all tokens.
#pragma once
#include <string>
#include <vector>

#include "models/clip.h"

namespace spindle {

class BlipVisionTower {
 public:
  BlipVisionTower(const Scope& scope, const ClipVisionConfig& config);
  // pixels (B, image_size, image_size, channels) -> (B, 1 + patches, C)
  Tensor forward(Tape& tape, const Tensor& pixels) const;

 private:
  ClipVisionConfig config_;
  Parameter* cls_token_;
  nn::Conv2d patch_embed_;
  Parameter* pos_embed_;
  std::vector<ClipEncoderLayer> blocks_;
  nn::LayerNorm norm_;
};

}  // namespace spindle
