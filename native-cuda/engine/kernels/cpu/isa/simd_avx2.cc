// The avx2 inner loops; see simd.h.
#include "kernels/cpu/isa/simd.h"
#if defined(__x86_64__)
#include <immintrin.h>

#include <cmath>
#include <cstring>

namespace spindle::cpu {
namespace {
namespace isa_avx2 {
#include "kernels/cpu/isa/vector_avx2.inl"
#include "kernels/cpu/isa/gemm.inl"
#include "kernels/cpu/isa/outer_pairs.inl"
#include "kernels/cpu/isa/norm.inl"
#include "kernels/cpu/isa/elementwise.inl"
#include "kernels/cpu/isa/table.inl"
}  // namespace isa_avx2
}  // namespace
const Simd* simd_avx2() {
  static constexpr Simd table = isa_avx2::make_table("avx2");
  return &table;
}
}  // namespace spindle::cpu
#else
namespace spindle::cpu {
const Simd* simd_avx2() { return nullptr; }
}  // namespace spindle::cpu
#endif
