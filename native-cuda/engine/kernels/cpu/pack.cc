#include <algorithm>
#include <cstring>

#include "kernels/cpu/cpu_kernels.h"

namespace spindle::cpu {

Packed CpuKernels::layout(int64_t taps, int64_t k, int64_t n, DType dtype) const {
  Packed p;
  p.taps = taps;
  p.k = k;
  p.n = n;
  p.panel = int64_t(simd_.width) * simd_.max_vectors;
  p.width = simd_.width;
  p.dtype = dtype;
  return p;
}

// A weight (N, taps, K) as the right-hand side of a forward product (columns N) or of one with the
// gradient (columns K).
PackSource CpuKernels::pack_source(const Weight& w,
                                   PackKind kind,
                                   int64_t n,
                                   int64_t taps,
                                   int64_t k) {
  if (kind == PackKind::Forward)
    return {w.value.raw(), w.value.dtype(), taps, k, n, k, 1, taps * k};
  return {w.value.raw(), w.value.dtype(), taps, n, k, k, taps * k, 1};
}

void CpuKernels::pack_panel(std::byte* out,
                            const Packed& packed,
                            int64_t panel,
                            const PackSource& source) const {
  int64_t width = packed.panel_width(panel), n0 = panel * packed.panel,
          columns = std::min(width, packed.n - n0);
  bool pairs = packed.dtype == DType::BF16;
  int64_t tap_bytes = packed.k_rows() * packed.row_bytes(panel);
  for (int64_t tap = 0; tap < packed.taps; ++tap, out += tap_bytes) {
    int64_t first = n0 * source.n_stride + tap * source.tap_stride;
    if (source.dtype == DType::F32) {
      const float* from = static_cast<const float*>(source.base) + first;
      if (source.k_stride == 1)
        simd_.pack_transposed(out, from, source.n_stride, columns, packed.k, width, pairs);
      else
        simd_.pack_rows(out, from, source.k_stride, columns, packed.k, width, pairs);
      continue;
    }
    const uint16_t* from = static_cast<const uint16_t*>(source.base) + first;
    uint16_t* o = reinterpret_cast<uint16_t*>(out);
    for (int64_t k = 0; k < packed.k; k += 2, o += 2 * width, from += 2 * source.k_stride) {
      bool second = k + 1 < packed.k;
      for (int64_t n = 0; n < columns; ++n) {
        o[2 * n] = from[n * source.n_stride];
        o[2 * n + 1] = second ? from[n * source.n_stride + source.k_stride] : uint16_t(0);
      }
      std::memset(o + 2 * columns, 0, size_t(width - columns) * 4);
    }
  }
}

void CpuKernels::pack(std::byte* out, const Packed& packed, const PackSource& source) {
  ++packs_done_, packed_bytes_ += uint64_t(packed.bytes());
  threads_.run(packed.panels(), [&](int64_t panel, int) {
    pack_panel(out + packed.panel_offset(panel), packed, panel, source);
  });
}

std::byte* CpuKernels::packing_buffer(Tensor& buffer, int64_t bytes) {
  if (!buffer || int64_t(buffer.bytes()) < bytes) {
    buffer = Tensor();
    packed_pool_.trim();
    buffer = Tensor(packed_pool_, {(bytes + 3) / 4}, DType::F32);
  }
  return static_cast<std::byte*>(buffer.raw());
}

Packed CpuKernels::packed_weight(const Weight& w,
                                 PackKind kind,
                                 int64_t n,
                                 int64_t taps,
                                 int64_t k,
                                 DType compute) {
  bool forward = kind == PackKind::Forward;
  Packed packed = layout(taps, forward ? k : n, forward ? n : k, compute);
  if (const std::byte* kept = kept_weight(w, kind)) {
    packed.data = kept;
    return packed;
  }
  std::byte* data = packing_buffer(temporary_pack_, packed.bytes());
  pack(data, packed, pack_source(w, kind, n, taps, k));
  packed.data = data;
  return packed;
}

const std::byte* CpuKernels::kept_weight(const Weight& w, PackKind kind) const {
  if (w.value) return nullptr;
  auto it = kept_.find(w.id);
  ensure(it != kept_.end() && kind == PackKind::Forward, "[cpu] a weight of ", w.shape(),
         " has no values");
  return static_cast<const std::byte*>(it->second.raw());
}

bool CpuKernels::keep_weight(const Weight& w, DType compute) {
  if (w.id == 0 || !w.value || w.value.dtype() != DType::F32 ||
      (compute != DType::F32 && compute != DType::BF16))
    return false;
  const Shape& s = w.shape();
  int64_t taps = s.rank() == 4 ? s[1] * s[2] : 1, k = s[-1];
  Packed packed = layout(taps, k, s[0], compute);
  Tensor& buffer = kept_[w.id];
  pack(packing_buffer(buffer, packed.bytes()), packed,
       pack_source(w, PackKind::Forward, s[0], taps, k));
  return true;
}

void CpuKernels::forget_weight(uint64_t id) {
  if (kept_.erase(id)) packed_pool_.trim();
}

}  // namespace spindle::cpu
