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

void CpuKernels::pack_panel(std::byte* data, const Packed& packed, int64_t panel, const PackSource& source) const {
  int64_t width = packed.panel_width(panel), n0 = panel * packed.panel, columns = std::min(width, packed.n - n0);
  std::byte* out = data + panel * packed.panel * packed.taps * packed.k_rows() * 4;
  // Short runs along n keep the reads of a row-major (n, k) source within a few lines at a time.
  if (packed.dtype == DType::F32) {
    const float* base = static_cast<const float*>(source.base) + n0 * source.n_stride;
    float* o = reinterpret_cast<float*>(out);
    for (int64_t tap = 0; tap < packed.taps; ++tap)
      for (int64_t k = 0; k < packed.k; ++k, o += width) {
        const float* s = base + tap * source.tap_stride + k * source.k_stride;
        for (int64_t n = 0; n < columns; ++n) o[n] = s[n * source.n_stride];
        for (int64_t n = columns; n < width; ++n) o[n] = 0;
      }
    return;
  }
  const uint16_t* base = static_cast<const uint16_t*>(source.base) + n0 * source.n_stride;
  uint16_t* o = reinterpret_cast<uint16_t*>(out);
  for (int64_t tap = 0; tap < packed.taps; ++tap)
    for (int64_t k = 0; k < packed.k; k += 2, o += 2 * width) {
      const uint16_t* s = base + tap * source.tap_stride + k * source.k_stride;
      bool second = k + 1 < packed.k;
      for (int64_t n = 0; n < columns; ++n) {
        o[2 * n] = s[n * source.n_stride];
        o[2 * n + 1] = second ? s[n * source.n_stride + source.k_stride] : uint16_t(0);
      }
      std::memset(o + 2 * columns, 0, size_t(width - columns) * 4);
    }
}

Packed CpuKernels::packed_weight(const Weight& w, PackKind kind, int64_t n, int64_t taps, int64_t k) {
  bool forward = kind == PackKind::Forward;
  Packed packed = layout(taps, forward ? k : n, forward ? n : k, w.value.dtype());
  PackSource source{w.value.raw(), w.value.dtype(), taps, packed.k, packed.n, k, forward ? 1 : taps * k, forward ? taps * k : 1};
  Tensor* buffer = &temporary_pack_;
  bool current = false;
  if (w.id != 0) {
    CachedPack& cached = packs_[w.id * 2 + uint64_t(kind)];
    current = cached.buffer && cached.version == w.version && int64_t(cached.buffer.bytes()) >= packed.bytes();
    cached.version = w.version;
    buffer = &cached.buffer;
  }
  if (!*buffer || int64_t(buffer->bytes()) < packed.bytes()) {
    *buffer = Tensor();
    *buffer = Tensor(packed_pool_, {(packed.bytes() + 3) / 4}, DType::F32);
  }
  std::byte* data = static_cast<std::byte*>(buffer->raw());
  if (!current) {
    ++packs_done_, packed_bytes_ += uint64_t(packed.bytes());
    threads_.run(packed.panels(), [&](int64_t panel, int) { pack_panel(data, packed, panel, source); });
  }
  packed.data = data;
  return packed;
}

}  // namespace spindle::cpu
