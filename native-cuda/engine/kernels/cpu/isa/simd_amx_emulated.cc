// What simd_amx.cc has, over emulated tiles, so that tests reach its code on processors
// without AMX.
#include "kernels/cpu/isa/simd.h"
#if defined(__x86_64__)
#include <immintrin.h>

#include <cmath>
#include <cstring>

namespace spindle::cpu {
namespace {
int64_t tile_products = 0;
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
int64_t emulated_tile_products() { return __atomic_load_n(&tile_products, __ATOMIC_RELAXED); }
}  // namespace spindle::cpu
#else
namespace spindle::cpu {
const Simd* simd_amx_emulated() { return nullptr; }
int64_t emulated_tile_products() { return 0; }
}  // namespace spindle::cpu
#endif
