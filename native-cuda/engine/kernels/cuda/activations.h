// The activations and their derivatives on the device, in float.
#pragma once
#include "kernels/cuda/device_code.h"
#include "kernels/kernels.h"

namespace spindle::cuda {

constexpr float kQuickGelu = 1.702f;

__device__ __forceinline__ float sigmoid(float x) { return 1 / (1 + expf(-x)); }
__device__ __forceinline__ float normal_cdf(float x) {
  return 0.5f * erfcf(-x * 0.70710678118654752f);
}
__device__ __forceinline__ float normal_density(float x) {
  return expf(-0.5f * x * x) * 0.39894228040143268f;
}

__device__ __forceinline__ float activate(float x, Activation kind) {
  switch (kind) {
    case Activation::None:
      return x;
    case Activation::Silu:
      return x * sigmoid(x);
    case Activation::Gelu:
      return x * normal_cdf(x);
    case Activation::QuickGelu:
      return x * sigmoid(kQuickGelu * x);
  }
  return x;
}

__device__ __forceinline__ float activate_derivative(float x, Activation kind) {
  switch (kind) {
    case Activation::None:
      return 1;
    case Activation::Silu: {
      float s = sigmoid(x);
      return s * (1 + x * (1 - s));
    }
    case Activation::Gelu:
      return normal_cdf(x) + x * normal_density(x);
    case Activation::QuickGelu: {
      float s = sigmoid(kQuickGelu * x);
      return s * (1 + kQuickGelu * x * (1 - s));
    }
  }
  return 1;
}

}  // namespace spindle::cuda
