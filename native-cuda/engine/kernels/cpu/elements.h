// Small arithmetic of tensors' elements that every kernel of this backend needs.
#pragma once
#include <algorithm>
#include <cstdint>

#include "core/tensor.h"
#include "kernels/operands/products.h"

namespace spindle::cpu {

inline bool is_bf16(const Tensor& t) { return t.dtype() == DType::BF16; }
inline int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }
inline int64_t divide_up(int64_t n, int64_t by) { return (n + by - 1) / by; }
inline char* at(void* base, int64_t index, DType dtype) {
  return static_cast<char*>(base) + index * int64_t(dtype_size(dtype));
}
inline const char* at(const void* base, int64_t index, DType dtype) {
  return static_cast<const char*>(base) + index * int64_t(dtype_size(dtype));
}

// Float32 products with a weight of fewer elements than this (first and last convolutions, the
// smallest models) are summed in double, unless one image has so many pixels that it would take
// long. Weight and image size decide, so an image's bytes do not depend on its batch.
constexpr int64_t kWideElements = 4096;
constexpr int64_t kWideProducts = 1 << 19;
inline bool sums_in_double(int64_t weights, int64_t positions_per_image) {
  return weights < kWideElements && weights * positions_per_image < kWideProducts;
}

// A 3x3 convolution whose output has the pixels of its input.
inline bool same_3x3(const Shape& filter, const Conv2dArgs& args) {
  return filter[1] == 3 && filter[2] == 3 && args.stride == 1 && args.pad_before == 1 &&
         args.pad_after == 1;
}

}  // namespace spindle::cpu
