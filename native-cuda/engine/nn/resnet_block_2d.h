// ResnetBlock2D: two convolutions with group norm and SiLU, the time embedding added between, and a
// shortcut.
#pragma once
#include <optional>

#include "nn/conv2d.h"
#include "nn/linear.h"
#include "nn/norm.h"

namespace spindle::nn {

struct ResnetBlock2dOptions {
  int64_t in_channels, out_channels;
  int64_t time_embed_dim;  // 0: no time embedding
  GroupNormArgs norm;
};

class ResnetBlock2d {
 public:
  ResnetBlock2d(const Scope& scope, const ResnetBlock2dOptions& options);
  // x (B, H, W, Ci); temb (B, time_embed_dim) after its SiLU, empty where the block has none -> (B,
  // H, W, Co)
  Tensor operator()(Tape& tape, const Tensor& x, const Tensor& temb = {}) const;

 private:
  GroupNorm norm1_;
  Conv2d conv1_;
  std::optional<Linear> time_emb_proj_;
  GroupNorm norm2_;
  Conv2d conv2_;
  std::optional<Linear> conv_shortcut_;
};

}  // namespace spindle::nn
