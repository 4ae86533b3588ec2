// What simd_amx.cc has, over emulated tiles, so that tests reach its code on processors
// without AMX.
#include "kernels/cpu/isa/simd.h"
#if defined(__x86_64__)
#include <immintrin.h>

#include <cmath>
#include <cstring>

namespace spindle::cpu {
namespace {
namespace isa_amx_emulated {
#include "kernels/cpu/isa/vector_avx512.inl"
#include "kernels/cpu/isa/gemm.inl"
#include "kernels/cpu/isa/outer_pairs.inl"
#include "kernels/cpu/isa/norm.inl"
#include "kernels/cpu/isa/elementwise.inl"
#include "kernels/cpu/isa/table.inl"
#include "kernels/cpu/isa/tiles_emulated.inl"
#include "kernels/cpu/isa/amx.inl"
}  // namespace isa_amx_emulated
}  // namespace
const Simd* simd_amx_emulated() {
  static constexpr Simd table = isa_amx_emulated::make_amx_table("amx_emulated");
  return &table;
}
}  // namespace spindle::cpu
#else
namespace spindle::cpu {
const Simd* simd_amx_emulated() { return nullptr; }
}  // namespace spindle::cpu
#endif
