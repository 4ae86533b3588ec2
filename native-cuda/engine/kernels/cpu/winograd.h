// 3x3 convolutions of stride 1 by Winograd's method, and gradients of their filters; winograd.cc
// and winograd_weight_gradient.cc say how.
#pragma once
#include "kernels/cpu/context.h"

namespace spindle::cpu {

// x (batch, height, width, in) -> y (batch, height, width, out)
struct WinogradCall {
  const void* x;
  void* y;
  DType dtype;
  int size;  // output pixels of a square: 2 * 2 or 4 * 4
  int64_t batch, height, width, in, out;
  bool backward;  // with the filter turned around, towards the input
  const float* bias = nullptr;
  const void *per_image = nullptr, *residual = nullptr;
  bool accumulate = false;
};
// The square's size that suits an image, 0 for a direct convolution.
int winograd_size(const CpuContext& cpu,
                  DType dtype,
                  const Shape& filter,
                  int64_t height,
                  int64_t width,
                  const Conv2dArgs& args);
void winograd(CpuContext& cpu, const WinogradCall& call, const Weight& w);

// The same of a filter's gradient.
int winograd_weight_gradient_size(const CpuContext& cpu, const Conv2dBackwardWeight& op);
void winograd_weight_gradient(CpuContext& cpu, const Conv2dBackwardWeight& op, int size);

}  // namespace spindle::cpu
