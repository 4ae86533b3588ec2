// y = sum + bias + addend, for what a library could not fuse.
#pragma once
#include <cuda_runtime.h>

#include "core/tensor.h"

namespace spindle::cuda {

// sum and y (rows, C) of types of their own; bias (C) and addend (rows, C) of y's type, or empty. y may be `sum` or `addend`.
void finish(Tensor& y, const Tensor& sum, const Tensor& bias, const Tensor& addend, cudaStream_t stream);

}  // namespace spindle::cuda
