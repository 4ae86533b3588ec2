#include "kernels/cpu/packing.h"

#include <algorithm>
#include <cstring>

namespace spindle::cpu {

Packed Packing::layout(int64_t taps, int64_t k, int64_t n, DType dtype) const {
  Packed p;
  p.taps = taps;
  p.k = k;
  p.n = n;
  p.panel = int64_t(simd_.width) * simd_.max_vectors;
  p.width = simd_.width;
  p.dtype = dtype;
  return p;
}

PackSource pack_source(const Weight& w, PackKind kind, const WeightSizes& sizes) {
  auto [n, taps, k] = sizes;
  if (kind == PackKind::Forward)
    return {w.value.raw(), w.value.dtype(), taps, k, n, k, 1, taps * k};
  return {w.value.raw(), w.value.dtype(), taps, n, k, k, taps * k, 1};
}

void Packing::pack_panel(std::byte* out,
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

void Packing::pack(std::byte* out, const Packed& packed, const PackSource& source) {
  count(packed.bytes());
  threads_.run(packed.panels(), [&](int64_t panel, int) {
    pack_panel(out + packed.panel_offset(panel), packed, panel, source);
  });
}

std::byte* Packing::grow(Tensor& buffer, int64_t bytes) {
  if (!buffer || int64_t(buffer.bytes()) < bytes) {
    buffer = Tensor();
    pool_.trim();
    buffer = Tensor(pool_, {(bytes + 3) / 4}, DType::F32);
  }
  return static_cast<std::byte*>(buffer.raw());
}

Packed Packing::packed_weight(const Weight& w,
                              PackKind kind,
                              const WeightSizes& sizes,
                              DType compute) {
  bool forward = kind == PackKind::Forward;
  Packed packed =
      layout(sizes.taps, forward ? sizes.k : sizes.n, forward ? sizes.n : sizes.k, compute);
  if (const std::byte* ready = kept(w, kind)) {
    packed.data = ready;
    return packed;
  }
  std::byte* data = room(Room::Weight, packed.bytes());
  pack(data, packed, pack_source(w, kind, sizes));
  packed.data = data;
  return packed;
}

const std::byte* Packing::kept(const Weight& w, PackKind kind) const {
  if (w.value) return nullptr;
  auto it = kept_.find(w.id);
  ensure(it != kept_.end() && kind == PackKind::Forward, "[cpu] a weight of ", w.shape(),
         " has no values");
  return static_cast<const std::byte*>(it->second.raw());
}

bool Packing::keep(const Weight& w, DType compute) {
  if (w.id == 0 || !w.value || w.value.dtype() != DType::F32 ||
      (compute != DType::F32 && compute != DType::BF16))
    return false;
  const Shape& s = w.shape();
  WeightSizes sizes{.n = s[0], .taps = s.rank() == 4 ? s[1] * s[2] : 1, .k = s[-1]};
  Packed packed = layout(sizes.taps, sizes.k, sizes.n, compute);
  Tensor& buffer = kept_[w.id];
  pack(grow(buffer, packed.bytes()), packed, pack_source(w, PackKind::Forward, sizes));
  return true;
}

void Packing::forget(uint64_t id) {
  if (kept_.erase(id)) pool_.trim();
}

}  // namespace spindle::cpu
