// What a library could not do: y = sum + bias + addend, and padding that is not the same before and
// after.
#pragma once
#include <cuda_runtime.h>

#include "core/tensor.h"

namespace spindle::cuda {

// sum and y (rows, C) of types of their own; bias (C) and addend (rows, C) of y's type, or empty. y
// may be `sum` or `addend`.
void finish(const Tensor& y,
            const Tensor& sum,
            const Tensor& bias,
            const Tensor& addend,
            cudaStream_t stream);

// y (B,H',W',C) = x (B,H,W,C) at (before, before), zeros around it
void pad_images(const Tensor& y, const Tensor& x, int64_t before, cudaStream_t stream);
// x (B,H,W,C) [+]= what of y (B,H',W',C) begins at (before, before)
void crop_images(const Tensor& x,
                 const Tensor& y,
                 int64_t before,
                 bool accumulate,
                 cudaStream_t stream);

}  // namespace spindle::cuda
