// The generic inner loops; see simd.h.
#include "kernels/cpu/isa/simd.h"

#include <cmath>
#include <cstring>

namespace spindle::cpu {
namespace {
namespace isa_generic {
#include "kernels/cpu/isa/vector_generic.inl"
#include "kernels/cpu/isa/gemm.inl"
#include "kernels/cpu/isa/outer_pairs.inl"
#include "kernels/cpu/isa/norm.inl"
#include "kernels/cpu/isa/elementwise.inl"
#include "kernels/cpu/isa/table.inl"
}  // namespace isa_generic
}  // namespace
const Simd* simd_generic() {
  static constexpr Simd table = isa_generic::make_table("generic");
  return &table;
}
}  // namespace spindle::cpu
