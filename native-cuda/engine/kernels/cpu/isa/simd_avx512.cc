// The avx512 inner loops; see simd.h.
#include "kernels/cpu/isa/simd.h"
#if defined(__x86_64__)
#include <immintrin.h>

#include <cmath>
#include <cstring>

namespace spindle::cpu {
namespace {
namespace isa_avx512 {
#include "kernels/cpu/isa/vector_avx512.inl"
#include "kernels/cpu/isa/gemm.inl"
#include "kernels/cpu/isa/outer_pairs.inl"
#include "kernels/cpu/isa/norm.inl"
#include "kernels/cpu/isa/elementwise.inl"
#include "kernels/cpu/isa/table.inl"
}  // namespace isa_avx512
}  // namespace
const Simd* simd_avx512() {
  static constexpr Simd table = isa_avx512::make_table("avx512");
  return &table;
}
}  // namespace spindle::cpu
#else
namespace spindle::cpu {
const Simd* simd_avx512() { return nullptr; }
}  // namespace spindle::cpu
#endif
