// The avx512_bf16 inner loops with bfloat16 products on AMX tiles; see simd.h.
#include "kernels/cpu/isa/simd.h"
#if defined(__x86_64__)
#include <immintrin.h>

#include <cmath>
#include <cstring>

namespace spindle::cpu {
namespace {
namespace isa_amx {
#include "kernels/cpu/isa/vector_avx512.inl"
#include "kernels/cpu/isa/gemm.inl"
#include "kernels/cpu/isa/outer_pairs.inl"
#include "kernels/cpu/isa/norm.inl"
#include "kernels/cpu/isa/elementwise.inl"
#include "kernels/cpu/isa/table.inl"
#include "kernels/cpu/isa/tiles_amx.inl"
#include "kernels/cpu/isa/amx.inl"
}  // namespace isa_amx
}  // namespace
const Simd* simd_amx() {
  static constexpr Simd table = isa_amx::make_amx_table("amx");
  return &table;
}
}  // namespace spindle::cpu
#else
namespace spindle::cpu {
const Simd* simd_amx() { return nullptr; }
}  // namespace spindle::cpu
#endif
