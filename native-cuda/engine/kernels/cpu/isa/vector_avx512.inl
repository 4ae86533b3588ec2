// 16 floats in a zmm register.

struct V {
  __m512 r;
  static constexpr int W = 16;
};
static inline V zero() { return {_mm512_setzero_ps()}; }
static inline V set1(float x) { return {_mm512_set1_ps(x)}; }
static inline V load(const float* p) { return {_mm512_loadu_ps(p)}; }
static inline void store(float* p, V v) { _mm512_storeu_ps(p, v.r); }
static inline void store_past(float* p, V v) { _mm512_stream_ps(p, v.r); }
static inline __mmask16 mask(int64_t n) { return __mmask16((1u << n) - 1); }
static inline V load_n(const float* p, int64_t n) { return {_mm512_maskz_loadu_ps(mask(n), p)}; }
static inline void store_n(float* p, V v, int64_t n) { _mm512_mask_storeu_ps(p, mask(n), v.r); }
static inline V from_bits(__m256i h) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16))};
}
static inline V load(const uint16_t* p) { return from_bits(_mm256_loadu_si256((const __m256i*)p)); }
static inline V load_n(const uint16_t* p, int64_t n) {
  return from_bits(_mm256_maskz_loadu_epi16(mask(n), p));
}
static inline __m256i to_bits(V v) {
#ifdef __AVX512BF16__
  return (__m256i)_mm512_cvtneps_pbh(v.r);
#else
  __m512i u = _mm512_castps_si512(v.r);
  __m512i bias = _mm512_add_epi32(_mm512_set1_epi32(0x7fff),
                                  _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1)));
  __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(u, bias), 16);
  __mmask16 nan = _mm512_cmp_ps_mask(v.r, v.r, _CMP_UNORD_Q);
  rounded = _mm512_mask_or_epi32(rounded, nan, _mm512_srli_epi32(u, 16), _mm512_set1_epi32(0x40));
  return _mm512_cvtepi32_epi16(rounded);
#endif
}
static inline void store(uint16_t* p, V v) { _mm256_storeu_si256((__m256i*)p, to_bits(v)); }
static inline void store_past(uint16_t* p, V v) { _mm256_stream_si256((__m256i*)p, to_bits(v)); }
static inline void store_n(uint16_t* p, V v, int64_t n) {
  _mm256_mask_storeu_epi16(p, mask(n), to_bits(v));
}
static inline V fma(V a, V b, V c) { return {_mm512_fmadd_ps(a.r, b.r, c.r)}; }
static inline V operator+(V a, V b) { return {_mm512_add_ps(a.r, b.r)}; }
static inline V operator-(V a, V b) { return {_mm512_sub_ps(a.r, b.r)}; }
static inline V operator*(V a, V b) { return {_mm512_mul_ps(a.r, b.r)}; }
static inline V operator/(V a, V b) { return {_mm512_div_ps(a.r, b.r)}; }
// a / b for b from 1 on: an estimate, corrected to 0.6 ulp in less time than a division takes.
static inline V quotient(V a, V b) {
  __m512 r = _mm512_maskz_rcp14_ps(__mmask16(-1), b.r), q = _mm512_mul_ps(a.r, r);
  return {_mm512_fmadd_ps(_mm512_fnmadd_ps(b.r, q, a.r), r, q)};
}
static inline V vmax(V a, V b) { return {_mm512_max_ps(a.r, b.r)}; }
static inline V vmin(V a, V b) { return {_mm512_min_ps(a.r, b.r)}; }
static inline V reciprocal_estimate(V a) {
  return {_mm512_maskz_rcp14_ps(__mmask16(-1), a.r)};
}  // relative error 6e-5
static inline V vsqrt(V a) { return {_mm512_maskz_sqrt_ps(__mmask16(-1), a.r)}; }
static inline V vabs(V a) { return {_mm512_abs_ps(a.r)}; }
static inline V vround(V a) {
  return {_mm512_roundscale_ps(a.r, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
static inline V copysign(V magnitude, V sign) {
  __m512i s = _mm512_and_si512(_mm512_castps_si512(sign.r), _mm512_set1_epi32(int(0x80000000u)));
  return {_mm512_castsi512_ps(_mm512_or_si512(_mm512_castps_si512(magnitude.r), s))};
}
// a < b ? yes : no, by element
static inline V select_less(V a, V b, V yes, V no) {
  return {_mm512_mask_blend_ps(_mm512_cmp_ps_mask(a.r, b.r, _CMP_LT_OQ), no.r, yes.r)};
}
// x * 2^n for integral n in [-126, 127]
static inline V scale2(V x, V n) { return {_mm512_scalef_ps(x.r, n.r)}; }
// log2 x within 0.09 for normal x > 0: the bits as a number
static inline V log2_of_bits(V x) {
  return {_mm512_fmsub_ps(_mm512_cvtepi32_ps(_mm512_castps_si512(x.r)),
                          _mm512_set1_ps(1.0f / (1 << 23)), _mm512_set1_ps(127.0f))};
}
// n may be any number: it saturates.
static inline V scale2_any(V x, V n) { return scale2(x, n); }
static inline float sum(V v) { return _mm512_reduce_add_ps(v.r); }
static inline float maximum(V v) { return _mm512_reduce_max_ps(v.r); }
// Pairs of bfloat16 along k, and acc + the products of a broadcast pair with them.
#ifdef __AVX512BF16__
struct P {
  __m512i bits;
};
static inline P load_pairs(const uint16_t* b) { return {_mm512_loadu_si512(b)}; }
static inline V dot_pair(V acc, uint32_t pair, P b) {
  return {_mm512_dpbf16_ps(acc.r, (__m512bh)_mm512_set1_epi32(int(pair)), (__m512bh)b.bits)};
}
#else
struct P {
  V lo, hi;
};
static inline P load_pairs(const uint16_t* b) {
  __m512i bits = _mm512_loadu_si512(b);
  return {{_mm512_castsi512_ps(_mm512_slli_epi32(bits, 16))},
          {_mm512_castsi512_ps(_mm512_and_si512(bits, _mm512_set1_epi32(int(0xffff0000u))))}};
}
static inline V dot_pair(V acc, uint32_t pair, P b) {
  acc = fma({_mm512_castsi512_ps(_mm512_set1_epi32(int(pair << 16)))}, b.lo, acc);
  return fma({_mm512_castsi512_ps(_mm512_set1_epi32(int(pair & 0xffff0000u)))}, b.hi, acc);
}
#endif
// Bits of bfloat16 pairs in float lanes: (even[i], odd[i]) by lane, and neighbours of the 32 values
// of low and high.
static inline V pair_up(V even, V odd) {
#ifdef __AVX512BF16__
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24,
                                         8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  return {_mm512_castsi512_ps(
      _mm512_permutexvar_epi16(order, (__m512i)_mm512_cvtne2ps_pbh(odd.r, even.r)))};
#else
  __m512i lo = _mm512_cvtepu16_epi32(to_bits(even)),
          hi = _mm512_slli_epi32(_mm512_cvtepu16_epi32(to_bits(odd)), 16);
  return {_mm512_castsi512_ps(_mm512_or_si512(lo, hi))};
#endif
}
#ifdef __AVX512BF16__
static inline V neighbour_pairs(V low, V high) {
  return {_mm512_castsi512_ps((__m512i)_mm512_cvtne2ps_pbh(high.r, low.r))};
}
#else
static inline V neighbour_pairs(V low, V high) {
  return {_mm512_castsi512_ps(
      _mm512_inserti64x4(_mm512_castsi256_si512(to_bits(low)), to_bits(high), 1))};
}
#endif
static inline void split_pairs(const float* p, V& even, V& odd) {
  __m512i bits = _mm512_loadu_si512(p);
  even = {_mm512_castsi512_ps(_mm512_slli_epi32(bits, 16))};
  odd = {_mm512_castsi512_ps(_mm512_and_si512(bits, _mm512_set1_epi32(int(0xffff0000u))))};
}
// Rows become columns.
static inline void transpose(V (&m)[16]) {
  __m512 t[16];
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_ps(m[i].r, m[i + 1].r);
    t[i + 1] = _mm512_unpackhi_ps(m[i].r, m[i + 1].r);
  }
  __m512d u[16];
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    __m512d a = _mm512_castps_pd(t[i]), b = _mm512_castps_pd(t[i + 1]),
            c = _mm512_castps_pd(t[i + 2]), d = _mm512_castps_pd(t[i + 3]);
    u[i] = _mm512_unpacklo_pd(a, c);
    u[i + 1] = _mm512_unpackhi_pd(a, c);
    u[i + 2] = _mm512_unpacklo_pd(b, d);
    u[i + 3] = _mm512_unpackhi_pd(b, d);
  }
  // u[4 q + j] holds, in its 128-bit lane l, column 4 l + j of rows 4 q .. 4 q + 3
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    __m512 a = _mm512_castpd_ps(u[j]), b = _mm512_castpd_ps(u[4 + j]),
           c = _mm512_castpd_ps(u[8 + j]), d = _mm512_castpd_ps(u[12 + j]);
    __m512 even_ab = _mm512_shuffle_f32x4(a, b, 0x88), odd_ab = _mm512_shuffle_f32x4(a, b, 0xdd);
    __m512 even_cd = _mm512_shuffle_f32x4(c, d, 0x88), odd_cd = _mm512_shuffle_f32x4(c, d, 0xdd);
    m[j].r = _mm512_shuffle_f32x4(even_ab, even_cd, 0x88);
    m[4 + j].r = _mm512_shuffle_f32x4(odd_ab, odd_cd, 0x88);
    m[8 + j].r = _mm512_shuffle_f32x4(even_ab, even_cd, 0xdd);
    m[12 + j].r = _mm512_shuffle_f32x4(odd_ab, odd_cd, 0xdd);
  }
}
static inline void store_interleaved(uint16_t* out, const uint16_t* even, const uint16_t* odd) {
  __m512i lo = even ? _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)even))
                    : _mm512_setzero_si512();
  __m512i hi =
      odd ? _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)odd)), 16)
          : _mm512_setzero_si512();
  _mm512_storeu_si512(out, _mm512_or_si512(lo, hi));
}
// out[pair][row] = in[row][pair] for up to 16 rows and pairs; zero past `rows` and `halves`
static inline void transpose_tile(uint32_t* out,
                                  int64_t ldo,
                                  const uint16_t* in,
                                  int64_t ldi,
                                  int64_t rows,
                                  int64_t halves) {
  __m512i r[16], t[16];
  const __mmask32 m = halves >= 32 ? ~__mmask32(0) : (__mmask32(1) << halves) - 1;
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i)
    r[i] = i < rows ? _mm512_maskz_loadu_epi16(m, in + i * ldi) : _mm512_setzero_si512();
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
  const int64_t pairs = (halves + 1) / 2;
#pragma GCC unroll 4
  for (int j = 0; j < 4;
       ++j) {  // the 128-bit lane L of r[4 i + j] holds column 4 L + j of rows 4 i ...
    __m512i a = _mm512_shuffle_i32x4(r[j], r[4 + j], 0x88),
            b = _mm512_shuffle_i32x4(r[8 + j], r[12 + j], 0x88);
    __m512i c = _mm512_shuffle_i32x4(r[j], r[4 + j], 0xdd),
            d = _mm512_shuffle_i32x4(r[8 + j], r[12 + j], 0xdd);
    if (j < pairs) _mm512_storeu_si512(out + j * ldo, _mm512_shuffle_i32x4(a, b, 0x88));
    if (4 + j < pairs) _mm512_storeu_si512(out + (4 + j) * ldo, _mm512_shuffle_i32x4(c, d, 0x88));
    if (8 + j < pairs) _mm512_storeu_si512(out + (8 + j) * ldo, _mm512_shuffle_i32x4(a, b, 0xdd));
    if (12 + j < pairs) _mm512_storeu_si512(out + (12 + j) * ldo, _mm512_shuffle_i32x4(c, d, 0xdd));
  }
}
#define SPINDLE_ROWS {0, 12, 12, 8, 6}
#define SPINDLE_MAX_VECTORS 4
