// Convolutions of few channels, along runs of output pixels whose taps lie at fixed distances: no
// addresses to look up, and sums leave the registers as outputs. Included once per instruction set.

constexpr int kNarrowRows[] = {0, V::W == 16 ? 16 : 8,
                               V::W == 16 ? 8 : 4};  // outputs of a tile, by vectors

// One step along k: a float, or a pair of bfloat16.
template <int ROWS, int NV>
static inline void narrow_step(V (&acc)[ROWS][NV], const float* x, int64_t pixel, const float* b) {
  V bv[NV];
#pragma GCC unroll 2
  for (int j = 0; j < NV; ++j) bv[j] = load(b + j * V::W);
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r) {
    V av = set1(x[r * pixel]);
#pragma GCC unroll 2
    for (int j = 0; j < NV; ++j) acc[r][j] = fma(av, bv[j], acc[r][j]);
  }
}
template <int ROWS, int NV>
static inline void narrow_step(V (&acc)[ROWS][NV],
                               const uint16_t* x,
                               int64_t pixel,
                               const float* b) {
  P bv[NV];
#pragma GCC unroll 2
  for (int j = 0; j < NV; ++j) bv[j] = load_pairs(reinterpret_cast<const uint16_t*>(b + j * V::W));
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r) {
    uint32_t pair = pair_at(x + r * pixel);
#pragma GCC unroll 2
    for (int j = 0; j < NV; ++j) acc[r][j] = dot_pair(acc[r][j], pair, bv[j]);
  }
}

template <class T, class O, int ROWS, int NV>
static void narrow_tile(const NarrowCall& c, int64_t first) {
  constexpr int64_t kStep = 4 / int64_t(sizeof(T));  // elements in a float of `b`
  V acc[ROWS][NV], total[ROWS][NV];
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 2
    for (int j = 0; j < NV; ++j) acc[r][j] = zero();
  const T* x = static_cast<const T*>(c.x) + first * c.pixel;
  const float* b = static_cast<const float*>(c.b);
  int64_t chain = 0;
  bool cut = false;
  for (int64_t tap = 0; tap < c.tap_rows; ++tap, x += c.row)
    for (int64_t i0 = 0; i0 < c.k; i0 += kChain) {
      const int64_t i1 = i0 + kChain < c.k ? i0 + kChain : c.k;
      if (kStep == 1 && chain + (i1 - i0) > kChain) {
        for (int r = 0; r < ROWS; ++r)
          for (int j = 0; j < NV; ++j) {
            total[r][j] = cut ? total[r][j] + acc[r][j] : acc[r][j];
            acc[r][j] = zero();
          }
        cut = true;
        chain = 0;
      }
      chain += i1 - i0;
      for (int64_t i = i0; i < i1; i += kStep, b += c.ldb)
        narrow_step<ROWS, NV>(acc, x + i, c.pixel, b);
    }
  if (cut)
    for (int r = 0; r < ROWS; ++r)
      for (int j = 0; j < NV; ++j) acc[r][j] = total[r][j] + acc[r][j];
  const O *per_image = static_cast<const O*>(c.per_image),
          *residual = static_cast<const O*>(c.residual);
#pragma GCC unroll 2
  for (int j = 0; j < NV; ++j) {
    const int64_t n = c.n - j * V::W;
    if (n <= 0) break;
    V add = c.bias ? load_any(c.bias + j * V::W, n) : zero();
    if (per_image) add = add + load_any(per_image + j * V::W, n);
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; ++r) {
      if (first + r >= c.count) break;
      const int64_t at = (first + r) * c.ldy + j * V::W;
      V v = acc[r][j] + add;
      if (residual) v = v + load_any(residual + at, n);
      store_any(static_cast<O*>(c.y) + at, v, n);
    }
  }
}
template <class T, class O>
static void narrow_typed(const NarrowCall& c) {
  if (c.vectors == 1)
    for (int64_t first = 0; first < c.count; first += kNarrowRows[1])
      narrow_tile<T, O, kNarrowRows[1], 1>(c, first);
  else
    for (int64_t first = 0; first < c.count; first += kNarrowRows[2])
      narrow_tile<T, O, kNarrowRows[2], 2>(c, first);
}
static void narrow(const NarrowCall& c, bool from_bf16, bool to_bf16) {
  if (!from_bf16)
    narrow_typed<float, float>(c);
  else if (to_bf16)
    narrow_typed<uint16_t, uint16_t>(c);
  else
    narrow_typed<uint16_t, float>(c);
}

// Four channels at a time, so that what follows a pixel's channels is overwritten by the next
// pixel.
typedef float Four __attribute__((vector_size(16), aligned(4), may_alias));
template <int FOURS>
static void shifted_sums(const ShiftedCall& c) {
  for (int64_t p = 0; p < c.width; ++p) {
    Four sum[FOURS];
    for (int f = 0; f < FOURS; ++f) sum[f] = reinterpret_cast<const Four*>(c.add)[f];
    for (int64_t r = 0; r < 3; ++r) {
      if (!c.z[r]) continue;
#pragma GCC unroll 3
      for (int64_t s = 0; s < 3; ++s) {
        const float* from = c.z[r] + (p + s) * c.ldz + (3 * r + s) * c.n;
        for (int f = 0; f < FOURS; ++f) sum[f] += reinterpret_cast<const Four*>(from)[f];
      }
    }
    for (int f = 0; f < FOURS; ++f) reinterpret_cast<Four*>(c.sums + p * c.n)[f] = sum[f];
  }
}
template <class T>
static void shifted_store(const ShiftedCall& c) {
  const T* residual = static_cast<const T*>(c.residual);
  const int64_t n = c.width * c.n;
  for (int64_t i = 0; i < n; i += V::W) {
    V v = load_any(c.sums + i, n - i);
    if (residual) v = v + load_any(residual + i, n - i);
    store_any(static_cast<T*>(c.y) + i, v, n - i);
  }
}
static void shifted(const ShiftedCall& c, bool bf16) {
  c.n <= 4 ? shifted_sums<1>(c) : shifted_sums<2>(c);
  bf16 ? shifted_store<uint16_t>(c) : shifted_store<float>(c);
}
