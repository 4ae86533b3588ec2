// Element types. bfloat16 is stored as its 16 bits; arithmetic is always done in float (or double
// in the reference kernels).
#pragma once
#include <bit>
#include <cstddef>
#include <cstdint>

namespace spindle {

enum class DType : uint8_t { F32, BF16, F64 };

constexpr size_t dtype_size(DType dtype) {
  return dtype == DType::F32 ? 4 : dtype == DType::BF16 ? 2 : 8;
}
constexpr const char* dtype_name(DType dtype) {
  return dtype == DType::F32 ? "float32" : dtype == DType::BF16 ? "bfloat16" : "float64";
}

struct bf16 {
  uint16_t bits;
};

inline float to_float(bf16 x) { return std::bit_cast<float>(uint32_t(x.bits) << 16); }

// Round to nearest, ties to even; NaN stays a quiet NaN.
inline bf16 to_bf16(float x) {
  uint32_t u = std::bit_cast<uint32_t>(x);
  if ((u & 0x7fffffffu) > 0x7f800000u) return {uint16_t((u >> 16) | 0x40)};
  return {uint16_t((u + 0x7fffu + ((u >> 16) & 1)) >> 16)};
}

// IEEE half to float, for weights stored in F16.
float half_to_float(uint16_t h);

}  // namespace spindle
