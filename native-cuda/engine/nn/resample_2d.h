// Halving and doubling of images between levels, each with its convolution.
#pragma once
#include "nn/conv2d.h"

namespace spindle::nn {

struct Downsample2d {
  // The U-Net pads (1, 1), the autoencoder (0, 1).
  Downsample2d(const Scope& scope, int64_t channels, int64_t pad_before)
      : conv(scope / "conv",
             channels,
             channels,
             {.args = {.stride = 2, .pad_before = pad_before, .pad_after = 1}}) {}
  Tensor operator()(Tape& tape, const Tensor& x) const { return conv(tape, x); }

  Conv2d conv;
};

struct Upsample2d {
  Upsample2d(const Scope& scope, int64_t channels) : conv(scope / "conv", channels, channels) {}
  // To the given size: twice the input's, or one less where the skip it meets is odd.
  Tensor operator()(Tape& tape, const Tensor& x, int64_t height, int64_t width) const {
    return conv(tape, ops::upsample_nearest(tape, x, height, width));
  }

  Conv2d conv;
};

}  // namespace spindle::nn
