// Register-tile matrix kernels over packed panels. Included once per instruction set.

// A float32 chain longer than this is cut and the pieces are summed in c, which bounds the rounding error of long sums.
constexpr int64_t kChain = 256;

template <int ROWS, int NV>
static void gemm_f32_tile(const GemmCall& g) {
  V acc[ROWS][NV];
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j) acc[r][j] = zero();
  const float* b = static_cast<const float*>(g.b);
  const int64_t k = g.k, ldb = g.ldb;
  const void* const* rows = g.a;
  bool stored = g.accumulate;
  int64_t chain = 0;
  auto flush = [&] {
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
      for (int j = 0; j < NV; ++j) {
        float* c = g.c + r * g.ldc + j * V::W;
        store(c, stored ? load(c) + acc[r][j] : acc[r][j]);
        acc[r][j] = zero();
      }
    stored = true;
    chain = 0;
  };
  for (int64_t s = 0; s < g.segments; ++s, rows += ROWS) {
    const float* a[ROWS];
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; ++r) a[r] = static_cast<const float*>(rows[r]);
    for (int64_t i0 = 0; i0 < k; i0 += kChain) {
      int64_t i1 = i0 + kChain < k ? i0 + kChain : k;
      if (chain + (i1 - i0) > kChain) flush();
      chain += i1 - i0;
      for (int64_t i = i0; i < i1; ++i, b += ldb) {
        V bv[NV];
#pragma GCC unroll 4
        for (int j = 0; j < NV; ++j) bv[j] = load(b + j * V::W);
#pragma GCC unroll 16
        for (int r = 0; r < ROWS; ++r) {
          V av = set1(a[r][i]);
#pragma GCC unroll 4
          for (int j = 0; j < NV; ++j) acc[r][j] = fma(av, bv[j], acc[r][j]);
        }
      }
    }
  }
  flush();
}

static inline uint32_t pair_at(const uint16_t* p) {
  uint32_t pair;
  memcpy(&pair, p, 4);
  return pair;
}

template <int ROWS, int NV>
static void gemm_bf16_tile(const GemmCall& g) {
  V acc[ROWS][NV];
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j) acc[r][j] = g.accumulate ? load(g.c + r * g.ldc + j * V::W) : zero();
  const uint16_t* b = static_cast<const uint16_t*>(g.b);
  const int64_t pairs = g.k / 2, ldb = 2 * g.ldb;
  const void* const* rows = g.a;
  for (int64_t s = 0; s < g.segments; ++s, rows += ROWS) {
    const uint16_t* a[ROWS];
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; ++r) a[r] = static_cast<const uint16_t*>(rows[r]);
    for (int64_t i = 0; i < pairs; ++i, b += ldb) {
      P bv[NV];
#pragma GCC unroll 4
      for (int j = 0; j < NV; ++j) bv[j] = load_pairs(b + 2 * j * V::W);
#pragma GCC unroll 16
      for (int r = 0; r < ROWS; ++r) {
        uint32_t pair = pair_at(a[r] + 2 * i);
#pragma GCC unroll 4
        for (int j = 0; j < NV; ++j) acc[r][j] = dot_pair(acc[r][j], pair, bv[j]);
      }
    }
    if (g.k & 1) {
      for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
        for (int j = 0; j < NV; ++j) acc[r][j] = dot_pair(acc[r][j], a[r][g.k - 1], load_pairs(b + 2 * j * V::W));
      b += ldb;
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j) store(g.c + r * g.ldc + j * V::W, acc[r][j]);
}

template <int ROWS, int NV>
static void outer_f32_tile(const OuterCall& g) {
  V acc[ROWS][NV];
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j) acc[r][j] = g.accumulate ? load(g.c + r * g.ldc + j * V::W) : zero();
  const int64_t lda = g.lda, ldb = g.ldb;
  for (int64_t s = 0; s < g.run_count; ++s) {
    const float *a = g.runs[s].a, *b = g.runs[s].b;
    for (int64_t i = 0; i < g.runs[s].count; ++i, a += lda, b += ldb) {
      V bv[NV];
#pragma GCC unroll 4
      for (int j = 0; j < NV; ++j) bv[j] = load(b + j * V::W);
#pragma GCC unroll 16
      for (int r = 0; r < ROWS; ++r) {
        V av = set1(a[r]);
#pragma GCC unroll 4
        for (int j = 0; j < NV; ++j) acc[r][j] = fma(av, bv[j], acc[r][j]);
      }
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j) store(g.c + r * g.ldc + j * V::W, acc[r][j]);
}

static void interleave(uint16_t* out, const uint16_t* even, const uint16_t* odd, int64_t n, int64_t padded) {
  int64_t i = 0;
  for (; i + V::W <= n; i += V::W) store_interleaved(out + 2 * i, even ? even + i : nullptr, odd ? odd + i : nullptr);
  for (; i < n; ++i) {
    out[2 * i] = even ? even[i] : uint16_t(0);
    out[2 * i + 1] = odd ? odd[i] : uint16_t(0);
  }
  for (i = 2 * n; i < 2 * padded; ++i) out[i] = 0;
}

// Sums in double, rounded once: for products too small for their time to matter (kWideElements in cpu_kernels.h).
static void gemm_f32_wide(const GemmCall& g) {
  const int64_t columns = g.vectors * V::W;
  for (int64_t r = 0; r < g.rows; ++r) {
    double acc[4 * 16];
    float* c = g.c + r * g.ldc;
    for (int64_t j = 0; j < columns; ++j) acc[j] = g.accumulate ? double(c[j]) : 0.0;
    const float* b = static_cast<const float*>(g.b);
    for (int64_t s = 0; s < g.segments; ++s) {
      const float* a = static_cast<const float*>(g.a[s * g.rows + r]);
      for (int64_t i = 0; i < g.k; ++i, b += g.ldb) {
        const double value = double(a[i]);
        for (int64_t j = 0; j < columns; ++j) acc[j] += value * double(b[j]);
      }
    }
    for (int64_t j = 0; j < columns; ++j) c[j] = float(acc[j]);
  }
}

static void outer_f32_wide(const OuterCall& g) {
  const int64_t columns = g.vectors * V::W;
  for (int64_t r = 0; r < g.rows; ++r) {
    double acc[4 * 16];
    float* c = g.c + r * g.ldc;
    for (int64_t j = 0; j < columns; ++j) acc[j] = g.accumulate ? double(c[j]) : 0.0;
    for (int64_t s = 0; s < g.run_count; ++s) {
      const float *a = g.runs[s].a + r, *b = g.runs[s].b;
      for (int64_t i = 0; i < g.runs[s].count; ++i, a += g.lda, b += g.ldb)
        for (int64_t j = 0; j < columns; ++j) acc[j] += double(*a) * double(b[j]);
    }
    for (int64_t j = 0; j < columns; ++j) c[j] = float(acc[j]);
  }
}

// Dispatch on the tile's rows and vectors.
#define SPINDLE_TILE_ROWS(KERNEL, NV)              \
  switch (g.rows) {                                \
    case 1: return KERNEL<1, NV>(g);               \
    case 2: return KERNEL<2, NV>(g);               \
    case 3: return KERNEL<3, NV>(g);               \
    case 4: return KERNEL<4, NV>(g);               \
    case 5: return KERNEL<5, NV>(g);               \
    case 6: return KERNEL<6, NV>(g);               \
    case 7: return KERNEL<7, NV>(g);               \
    case 8: return KERNEL<8, NV>(g);               \
    case 9: return KERNEL<9, NV>(g);               \
    case 10: return KERNEL<10, NV>(g);             \
    case 11: return KERNEL<11, NV>(g);             \
    default: return KERNEL<12, NV>(g);             \
  }
#if SPINDLE_MAX_VECTORS == 4
#define SPINDLE_TILE(KERNEL)                 \
  switch (g.vectors) {                       \
    case 1: SPINDLE_TILE_ROWS(KERNEL, 1)     \
    case 2: SPINDLE_TILE_ROWS(KERNEL, 2)     \
    case 3: SPINDLE_TILE_ROWS(KERNEL, 3)     \
    default: SPINDLE_TILE_ROWS(KERNEL, 4)    \
  }
#else
#define SPINDLE_TILE(KERNEL)                 \
  switch (g.vectors) {                       \
    case 1: SPINDLE_TILE_ROWS(KERNEL, 1)     \
    default: SPINDLE_TILE_ROWS(KERNEL, 2)    \
  }
#endif

static void gemm_f32(const GemmCall& g) { SPINDLE_TILE(gemm_f32_tile) }
static void gemm_bf16(const GemmCall& g) { SPINDLE_TILE(gemm_bf16_tile) }
static void outer_f32(const OuterCall& g) { SPINDLE_TILE(outer_f32_tile) }

template <class T>
static void store_row_typed(const RowCall& r) {
  T* y = static_cast<T*>(r.y);
  const T *per_image = static_cast<const T*>(r.per_image), *residual = static_cast<const T*>(r.residual);
  for (int64_t i = 0; i < r.n; i += V::W) {
    int64_t left = r.n - i;
    if (left >= V::W) {
      V v = load(r.c + i);
      if (r.bias) v = v + load(r.bias + i);
      if (per_image) v = v + load(per_image + i);
      if (residual) v = v + load(residual + i);
      if (r.accumulate) v = load(y + i) + v;
      store(y + i, v);
    } else {
      V v = load_n(r.c + i, left);
      if (r.bias) v = v + load_n(r.bias + i, left);
      if (per_image) v = v + load_n(per_image + i, left);
      if (residual) v = v + load_n(residual + i, left);
      if (r.accumulate) v = load_n(y + i, left) + v;
      store_n(y + i, v, left);
    }
  }
}
static void store_row(const RowCall& r, bool bf16) { bf16 ? store_row_typed<uint16_t>(r) : store_row_typed<float>(r); }
