// Register-tile matrix kernels over packed panels. Included once per instruction set.

// A float32 chain longer than this is cut and the pieces are summed in c, which bounds the rounding
// error of long sums.
constexpr int64_t kChain = 256;

// Where nothing is wanted, what is at hand anyway: asking for no address at all is slow.
static inline const char* fetched(const Fetch& fetch, const void* at_hand) {
  return fetch.from ? fetch.from : static_cast<const char*>(at_hand);
}

// Sums of a tile whose rows lie `offset` bytes past the call's. Pieces of a cut chain are in c;
// whether there are any is returned.
template <int ROWS, int NV>
static inline __attribute__((always_inline)) bool sum_f32(const GemmCall& g,
                                                          V (&acc)[ROWS][NV],
                                                          int64_t offset = 0) {
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j) acc[r][j] = zero();
  const float* b = static_cast<const float*>(g.b);
  const int64_t k = g.k, ldb = g.ldb, step = g.fetch.step;
  const char* fetch = fetched(g.fetch, g.b);
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
    for (int r = 0; r < ROWS; ++r)
      a[r] = reinterpret_cast<const float*>(static_cast<const char*>(rows[r]) + offset);
    for (int64_t i0 = 0; i0 < k; i0 += kChain) {
      int64_t i1 = i0 + kChain < k ? i0 + kChain : k;
      if (chain + (i1 - i0) > kChain) flush();
      chain += i1 - i0;
      for (int64_t i = i0; i < i1; ++i, b += ldb, fetch += step) {
        __builtin_prefetch(fetch);
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
  return stored;
}

template <int ROWS, int NV>
static void gemm_f32_tile(const GemmCall& g) {
  V acc[ROWS][NV];
  const bool stored = sum_f32<ROWS, NV>(g, acc);
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j) {
      float* c = g.c + r * g.ldc + j * V::W;
      store(c, stored ? load(c) + acc[r][j] : acc[r][j]);
    }
}

static inline uint32_t pair_at(const uint16_t* p) {
  uint32_t pair;
  memcpy(&pair, p, 4);
  return pair;
}

template <int ROWS, int NV>
static inline __attribute__((always_inline)) void sum_bf16(const GemmCall& g,
                                                           V (&acc)[ROWS][NV],
                                                           int64_t offset = 0) {
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j)
      acc[r][j] = g.accumulate ? load(g.c + r * g.ldc + j * V::W) : zero();
  const uint16_t* b = static_cast<const uint16_t*>(g.b);
  const int64_t pairs = g.k / 2, ldb = 2 * g.ldb, step = g.fetch.step;
  const char* fetch = fetched(g.fetch, g.b);
  const void* const* rows = g.a;
  for (int64_t s = 0; s < g.segments; ++s, rows += ROWS) {
    const uint16_t* a[ROWS];
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; ++r)
      a[r] = reinterpret_cast<const uint16_t*>(static_cast<const char*>(rows[r]) + offset);
    for (int64_t i = 0; i < pairs; ++i, b += ldb, fetch += step) {
      __builtin_prefetch(fetch);
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
        for (int j = 0; j < NV; ++j)
          acc[r][j] = dot_pair(acc[r][j], a[r][g.k - 1], load_pairs(b + 2 * j * V::W));
      b += ldb;
    }
  }
}

template <int ROWS, int NV>
static void gemm_bf16_tile(const GemmCall& g) {
  V acc[ROWS][NV];
  sum_bf16<ROWS, NV>(g, acc);
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j) store(g.c + r * g.ldc + j * V::W, acc[r][j]);
}

// What is left of an output row once its sums are there, a vector at a time: see RowCall.
template <bool WHOLE, class T>
static inline __attribute__((always_inline)) void finish(V v,
                                                         T* y,
                                                         const float* bias,
                                                         const T* per_image,
                                                         const T* residual,
                                                         int64_t n,
                                                         bool accumulate,
                                                         bool stream) {
  if (bias) v = v + (WHOLE ? load(bias) : load_n(bias, n));
  if (per_image) v = v + (WHOLE ? load(per_image) : load_n(per_image, n));
  if (residual) v = v + (WHOLE ? load(residual) : load_n(residual, n));
  if (accumulate) v = (WHOLE ? load(y) : load_n(y, n)) + v;
  if (!WHOLE)
    store_n(y, v, n);
  else if (stream)
    store_past(y, v);
  else
    store(y, v);
}

// The sums of a whole tile, finished in registers. T is the type of both sides.
template <int ROWS, int NV, class T>
static inline __attribute__((always_inline)) void gemm_store_tile(const GemmCall& g,
                                                                  const TileStore& t,
                                                                  int64_t tile) {
  const int64_t first = tile * ROWS * t.ld;
  T* const y = static_cast<T*>(t.y) + first;
  const T* const residual = t.residual ? static_cast<const T*>(t.residual) + first : nullptr;
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j)
      if ((j * V::W * sizeof(T)) % 64 == 0) {
        if (!t.stream) __builtin_prefetch(y + r * t.ld + j * V::W, 1);
        if (residual) __builtin_prefetch(residual + r * t.ld + j * V::W);
      }
  V acc[ROWS][NV];
  bool stored = false;
  if constexpr (sizeof(T) == 2)
    sum_bf16<ROWS, NV>(g, acc, tile * t.tile_bytes);
  else
    stored = sum_f32<ROWS, NV>(g, acc, tile * t.tile_bytes);
  const bool stream = t.stream && reinterpret_cast<uintptr_t>(y) % 64 == 0;
  const T* per_image = static_cast<const T*>(t.per_image);
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j) {
      const int64_t column = j * V::W, at = r * t.ld + column, left = t.n - column;
      V v = stored ? load(g.c + r * g.ldc + column) + acc[r][j] : acc[r][j];
      const float* bias = t.bias ? t.bias + column : nullptr;
      if (left >= V::W)
        finish<true>(v, y + at, bias, per_image ? per_image + column : nullptr,
                     residual ? residual + at : nullptr, left, t.accumulate, stream);
      else
        finish<false>(v, y + at, bias, per_image ? per_image + column : nullptr,
                      residual ? residual + at : nullptr, left, t.accumulate, stream);
    }
}

template <int ROWS, int NV>
static void outer_f32_tile(const OuterCall& g) {
  V acc[ROWS][NV];
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j)
      acc[r][j] = g.accumulate ? load(g.c + r * g.ldc + j * V::W) : zero();
  const int64_t lda = g.lda, ldb = g.ldb, step = g.fetch.step;
  const char* fetch = fetched(g.fetch, g.c);
  for (int64_t s = 0; s < g.run_count; ++s) {
    const float *a = g.runs[s].a, *b = g.runs[s].b;
    for (int64_t i = 0; i < g.runs[s].count; ++i, a += lda, b += ldb, fetch += step) {
      __builtin_prefetch(fetch, 0, 2);
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

static void interleave(uint16_t* out,
                       const uint16_t* even,
                       const uint16_t* odd,
                       int64_t n,
                       int64_t padded) {
  int64_t i = 0;
  for (; i + V::W <= n; i += V::W)
    store_interleaved(out + 2 * i, even ? even + i : nullptr, odd ? odd + i : nullptr);
  for (; i < n; ++i) {
    out[2 * i] = even ? even[i] : uint16_t(0);
    out[2 * i + 1] = odd ? odd[i] : uint16_t(0);
  }
  for (i = 2 * n; i < 2 * padded; ++i) out[i] = 0;
}

// Sums in double, rounded once: for products too small for their time to matter much (kWideElements
// in cpu_kernels.h). Two halves, each a register's width: wider vectors would live in memory.
typedef float HalfFloats __attribute__((vector_size(2 * V::W)));
typedef double HalfWide __attribute__((vector_size(4 * V::W)));
struct Wide {
  HalfWide half[2];
};

static inline void load_wide(Wide& out, const float* p) {
#pragma GCC unroll 2
  for (int h = 0; h < 2; ++h) {
    HalfFloats v;
    memcpy(&v, p + h * (V::W / 2), sizeof v);
    out.half[h] = __builtin_convertvector(v, HalfWide);
  }
}
static inline void store_wide(float* p, const Wide& v) {
#pragma GCC unroll 2
  for (int h = 0; h < 2; ++h) {
    HalfFloats narrow = __builtin_convertvector(v.half[h], HalfFloats);
    memcpy(p + h * (V::W / 2), &narrow, sizeof narrow);
  }
}
static inline void start_wide(Wide& out, const float* c, bool accumulate) {
  out.half[0] = out.half[1] = HalfWide{};
  if (accumulate) load_wide(out, c);
}

// One vector of columns, ROWS rows from `row` on.
template <int ROWS>
static void gemm_wide_tile(const GemmCall& g, int64_t row, int64_t column) {
  Wide acc[ROWS];
  float* c = g.c + row * g.ldc + column;
#pragma GCC unroll 6
  for (int r = 0; r < ROWS; ++r) start_wide(acc[r], c + r * g.ldc, g.accumulate);
  const float* b = static_cast<const float*>(g.b) + column;
  for (int64_t s = 0; s < g.segments; ++s) {
    const float* a[ROWS];
#pragma GCC unroll 6
    for (int r = 0; r < ROWS; ++r) a[r] = static_cast<const float*>(g.a[s * g.rows + row + r]);
    for (int64_t i = 0; i < g.k; ++i, b += g.ldb) {
      Wide bv;
      load_wide(bv, b);
#pragma GCC unroll 6
      for (int r = 0; r < ROWS; ++r) {
        const double value = double(a[r][i]);
        acc[r].half[0] += value * bv.half[0];
        acc[r].half[1] += value * bv.half[1];
      }
    }
  }
#pragma GCC unroll 6
  for (int r = 0; r < ROWS; ++r) store_wide(c + r * g.ldc, acc[r]);
}

template <int ROWS>
static void outer_wide_tile(const OuterCall& g, int64_t row, int64_t column) {
  Wide acc[ROWS];
  float* c = g.c + row * g.ldc + column;
#pragma GCC unroll 6
  for (int r = 0; r < ROWS; ++r) start_wide(acc[r], c + r * g.ldc, g.accumulate);
  for (int64_t s = 0; s < g.run_count; ++s) {
    const float *a = g.runs[s].a + row, *b = g.runs[s].b + column;
    for (int64_t i = 0; i < g.runs[s].count; ++i, a += g.lda, b += g.ldb) {
      Wide bv;
      load_wide(bv, b);
#pragma GCC unroll 6
      for (int r = 0; r < ROWS; ++r) {
        const double value = double(a[r]);
        acc[r].half[0] += value * bv.half[0];
        acc[r].half[1] += value * bv.half[1];
      }
    }
  }
#pragma GCC unroll 6
  for (int r = 0; r < ROWS; ++r) store_wide(c + r * g.ldc, acc[r]);
}

// NOLINTBEGIN(bugprone-macro-parentheses): the argument is the name of a template.
#define SPINDLE_WIDE(KERNEL)                                              \
  for (int64_t column = 0; column < g.vectors * V::W; column += V::W)     \
    for (int64_t row = 0; row < g.rows; row += 6) switch (g.rows - row) { \
        case 1:                                                           \
          KERNEL<1>(g, row, column);                                      \
          break;                                                          \
        case 2:                                                           \
          KERNEL<2>(g, row, column);                                      \
          break;                                                          \
        case 3:                                                           \
          KERNEL<3>(g, row, column);                                      \
          break;                                                          \
        case 4:                                                           \
          KERNEL<4>(g, row, column);                                      \
          break;                                                          \
        case 5:                                                           \
          KERNEL<5>(g, row, column);                                      \
          break;                                                          \
        default:                                                          \
          KERNEL<6>(g, row, column);                                      \
          break;                                                          \
      }
static void gemm_f32_wide(const GemmCall& g) { SPINDLE_WIDE(gemm_wide_tile) }
static void outer_f32_wide(const OuterCall& g){SPINDLE_WIDE(outer_wide_tile)}
#undef SPINDLE_WIDE

// Dispatch on the tile's rows and vectors.
#define SPINDLE_TILE_ROWS(KERNEL, NV) \
  switch (g.rows) {                   \
    case 1:                           \
      return KERNEL<1, NV>(g);        \
    case 2:                           \
      return KERNEL<2, NV>(g);        \
    case 3:                           \
      return KERNEL<3, NV>(g);        \
    case 4:                           \
      return KERNEL<4, NV>(g);        \
    case 5:                           \
      return KERNEL<5, NV>(g);        \
    case 6:                           \
      return KERNEL<6, NV>(g);        \
    case 7:                           \
      return KERNEL<7, NV>(g);        \
    case 8:                           \
      return KERNEL<8, NV>(g);        \
    case 9:                           \
      return KERNEL<9, NV>(g);        \
    case 10:                          \
      return KERNEL<10, NV>(g);       \
    case 11:                          \
      return KERNEL<11, NV>(g);       \
    default:                          \
      return KERNEL<12, NV>(g);       \
  }
// NOLINTEND(bugprone-macro-parentheses)
#if SPINDLE_MAX_VECTORS == 4
#define SPINDLE_TILE(KERNEL)       \
  switch (g.vectors) {             \
    case 1:                        \
      SPINDLE_TILE_ROWS(KERNEL, 1) \
    case 2:                        \
      SPINDLE_TILE_ROWS(KERNEL, 2) \
    case 3:                        \
      SPINDLE_TILE_ROWS(KERNEL, 3) \
    default:                       \
      SPINDLE_TILE_ROWS(KERNEL, 4) \
  }
#else
#define SPINDLE_TILE(KERNEL)       \
  switch (g.vectors) {             \
    case 1:                        \
      SPINDLE_TILE_ROWS(KERNEL, 1) \
    default:                       \
      SPINDLE_TILE_ROWS(KERNEL, 2) \
  }
#endif

static void gemm_f32(const GemmCall& g) {
  SPINDLE_TILE(gemm_f32_tile)
}
static void gemm_bf16(const GemmCall& g) { SPINDLE_TILE(gemm_bf16_tile) }
static void outer_f32(const OuterCall& g) { SPINDLE_TILE(outer_f32_tile) }

template <class T>
static void store_row_typed(const RowCall& r) {
  T* y = static_cast<T*>(r.y);
  const T *per_image = static_cast<const T*>(r.per_image),
          *residual = static_cast<const T*>(r.residual);
  const bool stream = r.stream && reinterpret_cast<uintptr_t>(y) % (V::W * sizeof(T)) == 0;
  for (int64_t i = 0; i < r.n; i += V::W) {
    int64_t left = r.n - i;
    if (left >= V::W) {
      V v = load(r.c + i);
      if (r.bias) v = v + load(r.bias + i);
      if (per_image) v = v + load(per_image + i);
      if (residual) v = v + load(residual + i);
      if (r.accumulate) v = load(y + i) + v;
      if (stream)
        store_past(y + i, v);
      else
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
template <int ROWS, int NV, class T>
static void gemm_store_tiles(const GemmCall& g, const TileStore& t) {
  GemmCall call = g;
  for (int64_t tile = 0; tile < t.tiles; ++tile) {
    if (g.fetch.from) call.fetch.from = g.fetch.from + tile * t.tile_bytes;
    gemm_store_tile<ROWS, NV, T>(call, t, tile);
  }
}
constexpr int kTileRows[] = SPINDLE_ROWS;
template <class T>
static void gemm_store(const GemmCall& g, const TileStore& t) {
  switch (g.vectors) {
    case 1:
      return gemm_store_tiles<kTileRows[1], 1, T>(g, t);
#if SPINDLE_MAX_VECTORS == 4
    case 2:
      return gemm_store_tiles<kTileRows[2], 2, T>(g, t);
    case 3:
      return gemm_store_tiles<kTileRows[3], 3, T>(g, t);
#endif
    default:
      return gemm_store_tiles<kTileRows[SPINDLE_MAX_VECTORS], SPINDLE_MAX_VECTORS, T>(g, t);
  }
}

static void store_row(const RowCall& r, bool bf16) {
  bf16 ? store_row_typed<uint16_t>(r) : store_row_typed<float>(r);
}
