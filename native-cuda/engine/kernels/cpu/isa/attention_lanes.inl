// Attention with queries in vector lanes (simd.h), what its two directions share. Included once per
// instruction set, after attention.inl.
//
// Scores are kept transposed, keys by queries, so that the statistics of a query are one lane's
// affair and nothing is ever summed across lanes. Operands are elements of 32 bits: floats, or
// pairs of bfloat16 along the summed dimension where the set multiplies those. "Pairs" of floats
// below are floats.

#ifdef __AVX512BF16__
constexpr bool kAttentionPairs = true;
#else
constexpr bool kAttentionPairs = false;
#endif
// Whether tensors of T are packed in pairs, and the unit of the exponents of their weights: powers
// of e, or of 2.
template <class T>
constexpr bool kPaired = sizeof(T) == 2 && kAttentionPairs;
template <class T>
constexpr float kUnit = sizeof(T) == 2 ? 0.69314718055994531f : 1.0f;
constexpr int64_t kAttentionQueries = SPINDLE_MAX_VECTORS * V::W;
// Scores of a block take half of the first-level cache.
constexpr int64_t kAttentionKeys = 4096 / kAttentionQueries;

template <bool PAIRS>
struct Factor {
  using A = V;
  using B = V;
  static A broadcast(const float* p) { return set1(*p); }
  static B load_b(const float* p) { return load(p); }
  static V add(V acc, A a, B b) { return fma(a, b, acc); }
};
template <>
struct Factor<true> {
  using A = uint32_t;
  using B = P;
  static A broadcast(const float* p) { return pair_at((const uint16_t*)p); }
  static B load_b(const float* p) { return load_pairs((const uint16_t*)p); }
  static V add(V acc, A a, B b) { return dot_pair(acc, a, b); }
};

// acc[r] += sum over i < n of A(r, i) * b[i], where A(r, i) is a[r * lda + i], or a[i * lda + r]
// with DOWN.
template <int R, int NV, bool PAIRS, bool DOWN>
static inline __attribute__((always_inline)) void add_products(V (&acc)[R][NV],
                                                               const float* a,
                                                               int64_t lda,
                                                               const float* b,
                                                               int64_t ldb,
                                                               int64_t n) {
  using F = Factor<PAIRS>;
  const float* rows[R];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) rows[r] = DOWN ? a + r : a + r * lda;
  for (int64_t i = 0, at = 0; i < n; ++i, at += DOWN ? lda : 1, b += ldb) {
    typename F::B bv[NV];
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j) bv[j] = F::load_b(b + j * V::W);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      typename F::A av = F::broadcast(rows[r] + at);
#pragma GCC unroll 4
      for (int j = 0; j < NV; ++j) acc[r][j] = F::add(acc[r][j], av, bv[j]);
    }
  }
}
template <int R, int NV>
static inline __attribute__((always_inline)) void clear(V (&acc)[R][NV]) {
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j) acc[r][j] = zero();
}

// f(Rows<rows>) for 1 <= rows <= MOST, and the same for all tiles of `total` rows.
template <int R>
struct Rows {
  static constexpr int value = R;
};
template <int MOST, class F>
static inline __attribute__((always_inline)) void with_rows(int64_t rows, F f) {
  if constexpr (MOST > 1) {
    if (rows < MOST) return with_rows<MOST - 1>(rows, f);
  }
  f(Rows<MOST>{});
}
template <int MOST, class F>
static inline __attribute__((always_inline)) void for_tiles(int64_t total, F f) {
  int64_t r = 0;
  for (; r + MOST <= total; r += MOST) f(r, Rows<MOST>{});
  if constexpr (MOST > 1) {
    if (r < total) with_rows<MOST - 1>(total - r, [&](auto rows) { f(r, rows); });
  }
}
// Rows of a tile of NV vectors.
template <int NV>
constexpr int kLaneRows = NV == 1 && kRowsFor[1] == 12 ? 16 : kRowsFor[NV];

// 2^x for weights that are rounded to bfloat16, of any x: far below -126 it is nothing or nearly,
// above 127 infinity or nearly; a NaN stays one.
static inline V exp2_short(V x) {
  V n = vround(x);
  return scale2_any(exp2_fraction(x - n), n);
}
// ln x for normal x > 0: two of Halley's steps for e^y = x, error e^3 / 12 each, from the number's
// bits.
static inline V vlog(V x) {
  V y = log2_of_bits(x) * set1(0.6931471806f);
#pragma GCC unroll 2
  for (int step = 0; step < 2; ++step) {
    V e = vexp(y);
    y = fma(set1(2.0f), (x - e) / (x + e), y);
  }
  return y;
}
static inline V weight_for(V x, const float*) { return vexp(x); }
static inline V weight_for(V x, const uint16_t*) { return exp2_short(x); }
static inline void as_floats(float* out, const uint16_t* x, int64_t n) { to_f32(out, x, n); }
static inline void as_floats(float* out, const float* x, int64_t n) {
  memcpy(out, x, size_t(n) * 4);
}

// Rows of d elements as they lie, densely: out[row][(d + 1) / 2] pairs, or d floats.
template <class T>
static void attention_rows_typed(float* out, const T* x, int64_t stride, int64_t rows, int64_t d) {
  if (!kPaired<T>) {
    for (int64_t r = 0; r < rows; ++r, out += d) as_floats(out, x + r * stride, d);
    return;
  }
  T* o = (T*)out;
  for (int64_t r = 0; r < rows; ++r, x += stride, o += (d + 1) / 2 * 2) {
    int64_t i = 0;
    for (; i + 8 <= d; i += 8) memcpy(o + i, x + i, 16);
    for (; i < d; ++i) o[i] = x[i];
    if (d & 1) o[d] = 0;
  }
}
// Pairs of rows, or rows of floats: out[row pair][ld], zero from d on.
template <class T>
static void attention_row_pairs_typed(float* out,
                                      const T* x,
                                      int64_t stride,
                                      int64_t rows,
                                      int64_t d,
                                      int64_t ld) {
  for (int64_t r = 0; r < rows; r += kPaired<T> ? 2 : 1, out += ld) {
    const uint16_t *even = (const uint16_t*)(x + r * stride),
                   *odd = r + 1 < rows ? even + stride : nullptr;
    if (!kPaired<T>)
      as_floats(out, x + r * stride, d);
    else if (d < V::W)
      interleave((uint16_t*)out, even, odd, d, d);
    else
      for (int64_t i = 0; i < d; i += V::W) {
        int64_t at = i + V::W <= d ? i : d - V::W;  // the last ones may overlap
        store_interleaved((uint16_t*)(out + at), even + at, odd ? odd + at : nullptr);
      }
    for (int64_t i = d; i < ld; ++i) out[i] = 0;
  }
}
static void attention_rows(float* out,
                           const void* x,
                           int64_t stride,
                           int64_t rows,
                           int64_t d,
                           bool bf16) {
  bf16 ? attention_rows_typed(out, (const uint16_t*)x, stride, rows, d)
       : attention_rows_typed(out, (const float*)x, stride, rows, d);
}
static void attention_row_pairs(float* out,
                                const void* x,
                                int64_t stride,
                                int64_t rows,
                                int64_t d,
                                int64_t ld,
                                bool bf16) {
  bf16 ? attention_row_pairs_typed(out, (const uint16_t*)x, stride, rows, d, ld)
       : attention_row_pairs_typed(out, (const float*)x, stride, rows, d, ld);
}
// Rows become lanes: out[pair][lanes], zero in lanes past the rows. `buffer` holds V::W * d floats.
template <class T>
static void lanes_of(float* out,
                     int64_t lanes,
                     const T* x,
                     int64_t stride,
                     int64_t rows,
                     int64_t d,
                     float* buffer) {
  constexpr int64_t halves = sizeof(T) / 2;
  if (kPaired<T> || sizeof(T) == 4)
    return transpose_pairs((uint32_t*)out, lanes, (const uint16_t*)x, stride * halves, rows,
                           d * halves, lanes);
  for (int64_t r = 0; r < lanes; r += V::W) {
    int64_t left = rows - r;
    for (int64_t i = 0; i < V::W && i < left; ++i)
      as_floats(buffer + i * d, x + (r + i) * stride, d);
    transpose_pairs((uint32_t*)out + r, lanes, (const uint16_t*)buffer, 2 * d, left, 2 * d, V::W);
  }
}
// Lanes become rows: y[row][i] (+)= x[i][row] * factor[row].
template <class T>
static void rows_of(T* y,
                    int64_t stride,
                    const float* x,
                    int64_t lanes,
                    int64_t rows,
                    int64_t d,
                    const float* factor,
                    bool accumulate) {
  for (int64_t r = 0; r < rows; r += V::W)
    for (int64_t c = 0; c < d; c += V::W) {
      V square[V::W];
      const V f = load(factor + r);
#pragma GCC unroll 16
      for (int i = 0; i < V::W; ++i)
        square[i] = c + i < d ? load(x + (c + i) * lanes + r) * f : zero();
      transpose(square);
      for (int i = 0; i < V::W && r + i < rows; ++i) {
        T* to = y + (r + i) * stride + c;
        store_any(to, accumulate ? load_any(to, d - c) + square[i] : square[i], d - c);
      }
    }
}
