// bfloat16 products on tile registers, over a `Tiles` (the processor's or the emulated ones) and
// the AVX-512 vectors.
//
// A call covers up to 32 rows and 64 columns, as blocks of 2 x 2 tiles of sums: four products for
// four loads. A step is 32 values along k. The hardware sums in float32 and counts denormal values
// as zeros, which changes nothing that bfloat16 resolves.

constexpr int kC = 0, kA = 4, kB = 6;  // tiles: sums 0..3, then two of a and two of b
constexpr int64_t kStep = 32;          // values along k in a tile's row
constexpr int64_t kCopied =
    256;  // values along k that are copied at a time, where a tile cannot be loaded in place
constexpr int64_t kCopyBytes =
    kCopied * 2 + 64;  // an odd number of lines between rows: no two rows share a set of the cache

// The rows of c that a call adds to or writes.
struct Sums {
  float* c;
  int64_t ldc, rows;
  bool accumulate;
};
template <int T>
static inline void load_sums(Tiles& t, const Sums& s, int64_t row, int64_t column) {
  if (!s.accumulate) return t.template clear<T>();
  const float* c = s.c + row * s.ldc + column;
  if (s.rows - row >= 16) return t.template fetch<T>(c, s.ldc * 4);
  alignas(64) float copy[16 * 16] = {};
  for (int64_t r = 0; r < s.rows - row; ++r) store(copy + 16 * r, load(c + r * s.ldc));
  t.template fetch<T>(copy, 64);
}
template <int T>
static inline void store_sums(Tiles& t, const Sums& s, int64_t row, int64_t column) {
  float* c = s.c + row * s.ldc + column;
  if (s.rows - row >= 16) return t.template put<T>(c, s.ldc * 4);
  alignas(64) float copy[16 * 16];
  t.template put<T>(copy, 64);
  for (int64_t r = 0; r < s.rows - row; ++r) store(c + r * s.ldc, load(copy + 16 * r));
}
template <int RT, int CT>
static inline void load_block(Tiles& t, const Sums& s, int64_t column) {
  load_sums<kC>(t, s, 0, column);
  if constexpr (CT == 2) load_sums<kC + 1>(t, s, 0, column + 16);
  if constexpr (RT == 2) load_sums<kC + 2>(t, s, 16, column);
  if constexpr (RT == 2 && CT == 2) load_sums<kC + 3>(t, s, 16, column + 16);
}
template <int RT, int CT>
static inline void store_block(Tiles& t, const Sums& s, int64_t column) {
  store_sums<kC>(t, s, 0, column);
  if constexpr (CT == 2) store_sums<kC + 1>(t, s, 0, column + 16);
  if constexpr (RT == 2) store_sums<kC + 2>(t, s, 16, column);
  if constexpr (RT == 2 && CT == 2) store_sums<kC + 3>(t, s, 16, column + 16);
}

// Where 16 rows of a lie.
struct Source {
  const char* base;
  int64_t stride;
};
// One step along k. Loads stand between products so that both units have work.
template <int RT, int CT>
static inline void step(Tiles& t,
                        const Source* a,
                        int64_t a_offset,
                        const void* b,
                        int64_t b_stride) {
  t.template fetch<kA>(a[0].base + a_offset, a[0].stride);
  t.template fetch<kB>(b, b_stride);
  t.template dot<kC, kA, kB>();
  if constexpr (CT == 2) {
    t.template fetch<kB + 1>(static_cast<const char*>(b) + 64, b_stride);
    t.template dot<kC + 1, kA, kB + 1>();
  }
  if constexpr (RT == 2) {
    t.template fetch<kA + 1>(a[1].base + a_offset, a[1].stride);
    t.template dot<kC + 2, kA + 1, kB>();
    if constexpr (CT == 2) t.template dot<kC + 3, kA + 1, kB + 1>();
  }
}

static inline __mmask32 mask_of(int64_t n) {
  return n >= 32 ? ~__mmask32(0) : (__mmask32(1) << n) - 1;
}
// Copies n values of up to 16 rows, from k0; what is missing of 16 rows and of a whole step is
// zero.
static inline void copy_rows(char* to, const void* const* a, int64_t rows, int64_t k0, int64_t n) {
  for (int64_t r = 0; r < 16; ++r, to += kCopyBytes)
    for (int64_t i = 0; i < n; i += kStep)
      _mm512_store_si512(to + 2 * i,
                         r < rows ? _mm512_maskz_loadu_epi16(
                                        mask_of(n - i), static_cast<const uint16_t*>(a[r]) + k0 + i)
                                  : _mm512_setzero_si512());
}
// Whether 16 rows can be loaded in place: the usual case within a matrix or an image's row.
static inline bool equally_spaced(const void* const* a, int64_t rows, int64_t& stride) {
  if (rows < 16) return false;
  stride = int64_t(uintptr_t(a[1]) - uintptr_t(a[0]));
  for (int64_t r = 2; r < 16; ++r)
    if (int64_t(uintptr_t(a[r]) - uintptr_t(a[r - 1])) != stride) return false;
  return true;
}

template <int RT, int CT>
static void gemm_block(const GemmCall& g, int64_t column) {
  Tiles t;
  alignas(64) char copies[RT][16 * kCopyBytes], b_tail[16 * 128];
  const Sums sums{g.c, g.ldc, g.rows, g.accumulate};
  load_block<RT, CT>(t, sums, column);
  const int64_t b_stride = g.ldb * 4;
  const char* b = static_cast<const char*>(g.b) + column * 4;
  for (int64_t s = 0; s < g.segments; ++s) {
    const void* const* rows = g.a + s * g.rows;
    bool in_place[RT];
    int64_t strides[RT];
    for (int i = 0; i < RT; ++i)
      in_place[i] = equally_spaced(rows + 16 * i, g.rows - 16 * i, strides[i]);
    for (int64_t k0 = 0; k0 < g.k; k0 += kCopied) {
      const int64_t n = g.k - k0 < kCopied ? g.k - k0 : kCopied, whole = n & ~(kStep - 1);
      Source a[RT];
      for (int i = 0; i < RT; ++i) {
        if (in_place[i] && whole == n) {
          a[i] = {static_cast<const char*>(rows[16 * i]) + 2 * k0, strides[i]};
        } else {
          copy_rows(copies[i], rows + 16 * i, g.rows - 16 * i, k0, n);
          a[i] = {copies[i], kCopyBytes};
        }
      }
      for (int64_t i = 0; i < whole; i += kStep, b += 16 * b_stride)
        step<RT, CT>(t, a, 2 * i, b, b_stride);
      if (whole == n) continue;
      // What follows b's last pairs is another segment's or nobody's: zeros of a would not silence
      // a NaN there.
      const int64_t pairs = (n - whole + 1) / 2;
      for (int64_t p = 0; p < 16; ++p)
        for (int j = 0; j < CT; ++j)
          _mm512_store_si512(
              b_tail + p * 128 + 64 * j,
              p < pairs ? _mm512_loadu_si512(b + p * b_stride + 64 * j) : _mm512_setzero_si512());
      step<RT, CT>(t, a, 2 * whole, b_tail, 128);
      b += pairs * b_stride;
    }
  }
  store_block<RT, CT>(t, sums, column);
}

// The same blocks over packed positions; see outer_pairs_pack.
template <int RT, int CT>
static void outer_block(const OuterPairsCall& g, int64_t column) {
  Tiles t;
  const Sums sums{g.c, g.ldc, g.rows, g.accumulate};
  load_block<RT, CT>(t, sums, column);
  const int64_t b_stride = g.vectors * 64;
  Source a[RT];
  for (int i = 0; i < RT; ++i) a[i] = {reinterpret_cast<const char*>(g.a + i * 16 * g.pitch), 64};
  int64_t a_offset = 0;
  for (int64_t run = 0; run < g.run_count; ++run) {
    const char* b = reinterpret_cast<const char*>(g.runs[run].b) + column * 4;
    for (int64_t i = 0; i < g.runs[run].pairs; i += 16, b += 16 * b_stride, a_offset += 1024)
      step<RT, CT>(t, a, a_offset, b, b_stride);
  }
  store_block<RT, CT>(t, sums, column);
}

// NOLINTBEGIN(bugprone-macro-parentheses): the argument is the name of a template.
#define SPINDLE_BLOCKS(KERNEL)                                      \
  for (int64_t column = 0; column < g.vectors * 16; column += 32) { \
    const bool two = g.vectors * 16 - column >= 32;                 \
    if (g.rows > 16)                                                \
      two ? KERNEL<2, 2>(g, column) : KERNEL<2, 1>(g, column);      \
    else                                                            \
      two ? KERNEL<1, 2>(g, column) : KERNEL<1, 1>(g, column);      \
  }
// NOLINTEND(bugprone-macro-parentheses)
static void gemm_bf16_amx(const GemmCall& g) { SPINDLE_BLOCKS(gemm_block) }
static void outer_pairs_amx(const OuterPairsCall& g) { SPINDLE_BLOCKS(outer_block) }

static inline void transpose_pairs(__m512i (&r)[16]) {
  __m512i t[16];
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
  }
  for (int i = 0; i < 16; i += 4)
    for (int h = 0; h < 2; ++h) {
      r[i + 2 * h] = _mm512_unpacklo_epi64(t[i + h], t[i + h + 2]);
      r[i + 2 * h + 1] = _mm512_unpackhi_epi64(t[i + h], t[i + h + 2]);
    }
  for (int c = 0; c < 4; ++c)
    for (int h = 0; h < 16; h += 8) {
      t[h + c] = _mm512_shuffle_i32x4(r[h + c], r[h + 4 + c], 0x88);
      t[h + 4 + c] = _mm512_shuffle_i32x4(r[h + c], r[h + 4 + c], 0xdd);
    }
  for (int c = 0; c < 8; ++c) {
    r[c] = _mm512_shuffle_i32x4(t[c], t[8 + c], 0x88);
    r[8 + c] = _mm512_shuffle_i32x4(t[c], t[8 + c], 0xdd);
  }
}
// Tiles of [16 rows][32 positions], one after the other along the positions: what a tile of a is.
static void outer_pairs_pack_amx(uint16_t* out,
                                 const uint16_t* dy,
                                 int64_t positions,
                                 int64_t m,
                                 int64_t stride,
                                 int64_t pitch) {
  for (int64_t row = 0; row < m; row += 16) {
    const __mmask16 some = m - row >= 16 ? __mmask16(-1) : mask(m - row);
    for (int64_t p0 = 0; p0 < positions; p0 += 32) {
      __m512i pairs[16];
      for (int64_t i = 0; i < 16; ++i) {
        const int64_t p = p0 + 2 * i;
        const uint16_t* at = dy + p * stride + row;
        __m512i even = p < positions ? _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(some, at))
                                     : _mm512_setzero_si512();
        __m512i odd =
            p + 1 < positions
                ? _mm512_slli_epi32(
                      _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(some, at + stride)), 16)
                : _mm512_setzero_si512();
        pairs[i] = _mm512_or_si512(even, odd);
      }
      transpose_pairs(pairs);
      uint16_t* tile = out + row * pitch + p0 * 16;
      for (int i = 0; i < 16; ++i) _mm512_storeu_si512(tile + 32 * i, pairs[i]);
    }
  }
}

static constexpr Simd make_amx_table(const char* name) {
  Simd table = make_table(name);
  for (int vectors = 1; vectors <= 4; ++vectors) table.rows_for_bf16[vectors] = 32;
  table.gemm_bf16 = gemm_bf16_amx;
  table.gemm_bf16_store = nullptr;
  table.gemm_bf16_geglu = nullptr;
  table.winograd_bf16 = false;
  table.attention_lanes = false;
  table.outer_pairs_tile = 16;
  table.outer_pairs_rows = 32;
  table.outer_pairs_step = 32;
  table.outer_pairs = outer_pairs_amx;
  table.outer_pairs_pack = outer_pairs_pack_amx;
  return table;
}
