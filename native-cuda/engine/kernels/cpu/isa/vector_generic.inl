// 4 floats by the compiler's portable vectors: any processor.

typedef float v4f __attribute__((vector_size(16)));
typedef int32_t v4i __attribute__((vector_size(16)));
struct V {
  v4f r;
  static constexpr int W = 4;
};
static inline V zero() { return {v4f{0, 0, 0, 0}}; }
static inline V set1(float x) { return {v4f{x, x, x, x}}; }
static inline V load(const float* p) {
  V v;
  memcpy(&v.r, p, 16);
  return v;
}
static inline void store(float* p, V v) { memcpy(p, &v.r, 16); }
static inline void store_past(float* p, V v) { store(p, v); }
static inline V load_n(const float* p, int64_t n) {
  V v = zero();
  for (int64_t i = 0; i < n; ++i) v.r[i] = p[i];
  return v;
}
static inline void store_n(float* p, V v, int64_t n) {
  for (int64_t i = 0; i < n; ++i) p[i] = v.r[i];
}
static inline float widen(uint16_t h) {
  uint32_t u = uint32_t(h) << 16;
  float f;
  memcpy(&f, &u, 4);
  return f;
}
static inline uint16_t narrow(float f) {
  uint32_t u;
  memcpy(&u, &f, 4);
  if ((u & 0x7fffffffu) > 0x7f800000u) return uint16_t((u >> 16) | 0x40);
  return uint16_t((u + 0x7fffu + ((u >> 16) & 1)) >> 16);
}
static inline V load_n(const uint16_t* p, int64_t n) {
  V v = zero();
  for (int64_t i = 0; i < n; ++i) v.r[i] = widen(p[i]);
  return v;
}
static inline V load(const uint16_t* p) { return load_n(p, 4); }
static inline void store_n(uint16_t* p, V v, int64_t n) {
  for (int64_t i = 0; i < n; ++i) p[i] = narrow(v.r[i]);
}
static inline void store(uint16_t* p, V v) { store_n(p, v, 4); }
static inline void store_past(uint16_t* p, V v) { store(p, v); }
static inline V fma(V a, V b, V c) { return {a.r * b.r + c.r}; }
static inline V operator+(V a, V b) { return {a.r + b.r}; }
static inline V operator-(V a, V b) { return {a.r - b.r}; }
static inline V operator*(V a, V b) { return {a.r * b.r}; }
static inline V operator/(V a, V b) { return {a.r / b.r}; }
static inline V quotient(V a, V b) { return a / b; }
static inline V vmax(V a, V b) { return {a.r > b.r ? a.r : b.r}; }
static inline V vmin(V a, V b) { return {a.r < b.r ? a.r : b.r}; }
static inline V reciprocal_estimate(V a) { return set1(1.0f) / a; }
static inline V vsqrt(V a) {
  for (int i = 0; i < 4; ++i) a.r[i] = sqrtf(a.r[i]);
  return a;
}
static inline V vabs(V a) { return {(v4f)((v4i)a.r & 0x7fffffff)}; }
static inline V vround(
    V a) {  // for |a| < 2^22: adding and taking away 1.5 * 2^23 rounds to nearest even
  volatile v4f magic = v4f{12582912.0f, 12582912.0f, 12582912.0f, 12582912.0f};
  v4f shifted = a.r + magic;
  return {shifted - magic};
}
static inline V copysign(V magnitude, V sign) {
  return {(v4f)((v4i)magnitude.r | ((v4i)sign.r & (int32_t)0x80000000))};
}
// a < b ? yes : no, by element
static inline V select_less(V a, V b, V yes, V no) { return {a.r < b.r ? yes.r : no.r}; }
static inline V scale2(V x, V n) {
  v4i e = (__builtin_convertvector(n.r, v4i) + 127) << 23;
  return {x.r * (v4f)e};
}
// log2 x within 0.09 for normal x > 0: the bits as a number
static inline V log2_of_bits(V x) {
  return {__builtin_convertvector((v4i)x.r, v4f) * (1.0f / (1 << 23)) - 127.0f};
}
// n may be any number: it saturates near 2^-126 and 2^127. A NaN in x stays one.
static inline V scale2_any(V x, V n) {
  return scale2(x, vmin(set1(127.0f), vmax(set1(-126.0f), n)));
}
static inline float sum(V v) { return (v.r[0] + v.r[2]) + (v.r[1] + v.r[3]); }
static inline float maximum(V v) {
  float m = v.r[0];
  for (int i = 1; i < 4; ++i) m = v.r[i] > m ? v.r[i] : m;
  return m;
}
struct P {
  V lo, hi;
};
static inline P load_pairs(const uint16_t* b) {
  P p;
  for (int i = 0; i < 4; ++i) {
    p.lo.r[i] = widen(b[2 * i]);
    p.hi.r[i] = widen(b[2 * i + 1]);
  }
  return p;
}
static inline V dot_pair(V acc, uint32_t pair, P b) {
  acc = fma(set1(widen(uint16_t(pair))), b.lo, acc);
  return fma(set1(widen(uint16_t(pair >> 16))), b.hi, acc);
}
// Bits of bfloat16 pairs in float lanes: (even[i], odd[i]) by lane, and neighbours of the 8 values
// of low and high.
static inline V pair_up(V even, V odd) {
  v4i bits;
  for (int i = 0; i < 4; ++i)
    bits[i] = int32_t(uint32_t(narrow(even.r[i])) | uint32_t(narrow(odd.r[i])) << 16);
  return {(v4f)bits};
}
static inline V neighbour_pairs(V low, V high) {
  return pair_up({v4f{low.r[0], low.r[2], high.r[0], high.r[2]}},
                 {v4f{low.r[1], low.r[3], high.r[1], high.r[3]}});
}
static inline void split_pairs(const float* p, V& even, V& odd) {
  uint16_t bits[8];
  memcpy(bits, p, sizeof bits);
  for (int i = 0; i < 4; ++i) {
    even.r[i] = widen(bits[2 * i]);
    odd.r[i] = widen(bits[2 * i + 1]);
  }
}
// Rows become columns.
static inline void transpose(V (&m)[4]) {
  for (int i = 0; i < 4; ++i)
    for (int j = 0; j < i; ++j) {
      float other = m[i].r[j];
      m[i].r[j] = m[j].r[i];
      m[j].r[i] = other;
    }
}
static inline void store_interleaved(uint16_t* out, const uint16_t* even, const uint16_t* odd) {
  for (int i = 0; i < 4; ++i) {
    out[2 * i] = even ? even[i] : uint16_t(0);
    out[2 * i + 1] = odd ? odd[i] : uint16_t(0);
  }
}
// out[pair][row] = in[row][pair] for up to 4 rows and pairs; zero past `rows` and `halves`
static inline void transpose_tile(uint32_t* out,
                                  int64_t ldo,
                                  const uint16_t* in,
                                  int64_t ldi,
                                  int64_t rows,
                                  int64_t halves) {
  for (int64_t j = 0; 2 * j < halves && j < 4; ++j)
    for (int64_t i = 0; i < 4; ++i) {
      uint16_t pair[2] = {};
      if (i < rows) memcpy(pair, in + i * ldi + 2 * j, 2 * j + 1 < halves ? 4 : 2);
      memcpy(out + j * ldo + i, pair, 4);
    }
}
#define SPINDLE_ROWS {0, 4, 4, 0, 0}
#define SPINDLE_MAX_VECTORS 2
