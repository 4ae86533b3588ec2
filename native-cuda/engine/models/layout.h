// Between the outside's tensors (float32, NCHW) and the engine's (compute precision, NHWC).
#pragma once
#include <vector>

#include "autograd/device.h"

namespace spindle {

// (B, C, H, W) float32 -> (B, H, W, C) in `dtype`
inline Tensor to_nhwc(Device& device, const Tensor& x, DType dtype) {
  require(x.rank() == 4, "[layout] expected (B, C, H, W), got ", x.shape());
  Tensor y = device.empty({x.dim(0), x.dim(2), x.dim(3), x.dim(1)}, dtype);
  device.kernels().run(NchwToNhwc{.y = y, .x = x});
  return y;
}

// (B, H, W, C) -> (B, C, H, W) float32
inline Tensor to_nchw(Device& device, const Tensor& x) {
  Tensor y = device.empty({x.dim(0), x.dim(3), x.dim(1), x.dim(2)}, DType::F32);
  device.kernels().run(NhwcToNchw{.y = y, .x = x});
  return y;
}

inline Tensor to_dtype(Device& device, const Tensor& x, DType dtype) {
  if (x.dtype() == dtype) return x;
  Tensor y = device.empty(x.shape(), dtype);
  device.kernels().run(Cast{.y = y, .x = x});
  return y;
}

inline Tensor to_float(Device& device, const Tensor& x) { return to_dtype(device, x, DType::F32); }

// A float32 tensor of these values.
inline Tensor from_floats(Device& device, const std::vector<float>& values, const Shape& shape) {
  require(int64_t(values.size()) == shape.numel(), "[layout] ", values.size(),
          " values do not fit ", shape);
  Tensor t = device.empty(shape, DType::F32);
  device.upload(t, values.data());
  return t;
}

// The values of a tensor as float32, whatever its type.
inline std::vector<float> to_floats(Device& device, const Tensor& x) {
  return device.download<float>(to_float(device, x));
}

}  // namespace spindle
