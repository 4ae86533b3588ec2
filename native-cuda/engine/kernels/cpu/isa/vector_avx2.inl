// 8 floats in a ymm register, with FMA.

struct V {
  __m256 r;
  static constexpr int W = 8;
};
static inline V zero() { return {_mm256_setzero_ps()}; }
static inline V set1(float x) { return {_mm256_set1_ps(x)}; }
static inline V load(const float* p) { return {_mm256_loadu_ps(p)}; }
static inline void store(float* p, V v) { _mm256_storeu_ps(p, v.r); }
static inline void store_past(float* p, V v) { _mm256_stream_ps(p, v.r); }
static inline __m256i lanes(int64_t n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(int(n)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
static inline V load_n(const float* p, int64_t n) { return {_mm256_maskload_ps(p, lanes(n))}; }
static inline void store_n(float* p, V v, int64_t n) { _mm256_maskstore_ps(p, lanes(n), v.r); }
static inline V from_bits(__m128i h) {
  return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16))};
}
static inline V load(const uint16_t* p) { return from_bits(_mm_loadu_si128((const __m128i*)p)); }
static inline V load_n(const uint16_t* p, int64_t n) {
  uint16_t buffer[8] = {};
  for (int64_t i = 0; i < n; ++i) buffer[i] = p[i];
  return load(buffer);
}
static inline __m128i to_bits(V v) {
  __m256i u = _mm256_castps_si256(v.r);
  __m256i bias = _mm256_add_epi32(_mm256_set1_epi32(0x7fff),
                                  _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1)));
  __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(u, bias), 16);
  __m256i quiet = _mm256_or_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(0x40));
  rounded = _mm256_blendv_epi8(rounded, quiet,
                               _mm256_castps_si256(_mm256_cmp_ps(v.r, v.r, _CMP_UNORD_Q)));
  return _mm_packus_epi32(_mm256_castsi256_si128(rounded), _mm256_extracti128_si256(rounded, 1));
}
static inline void store(uint16_t* p, V v) { _mm_storeu_si128((__m128i*)p, to_bits(v)); }
static inline void store_past(uint16_t* p, V v) { _mm_stream_si128((__m128i*)p, to_bits(v)); }
static inline void store_n(uint16_t* p, V v, int64_t n) {
  uint16_t buffer[8];
  store(buffer, v);
  for (int64_t i = 0; i < n; ++i) p[i] = buffer[i];
}
static inline V fma(V a, V b, V c) { return {_mm256_fmadd_ps(a.r, b.r, c.r)}; }
static inline V operator+(V a, V b) { return {_mm256_add_ps(a.r, b.r)}; }
static inline V operator-(V a, V b) { return {_mm256_sub_ps(a.r, b.r)}; }
static inline V operator*(V a, V b) { return {_mm256_mul_ps(a.r, b.r)}; }
static inline V operator/(V a, V b) { return {_mm256_div_ps(a.r, b.r)}; }
static inline V quotient(V a, V b) { return a / b; }
static inline V vmax(V a, V b) { return {_mm256_max_ps(a.r, b.r)}; }
static inline V vmin(V a, V b) { return {_mm256_min_ps(a.r, b.r)}; }
static inline V reciprocal_estimate(V a) { return {_mm256_rcp_ps(a.r)}; }  // relative error 4e-4
static inline V vsqrt(V a) { return {_mm256_sqrt_ps(a.r)}; }
static inline V sign_bits() { return set1(-0.0f); }
static inline V vabs(V a) { return {_mm256_andnot_ps(sign_bits().r, a.r)}; }
static inline V vround(V a) {
  return {_mm256_round_ps(a.r, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
static inline V copysign(V magnitude, V sign) {
  return {_mm256_or_ps(magnitude.r, _mm256_and_ps(sign.r, sign_bits().r))};
}
// a < b ? yes : no, by element
static inline V select_less(V a, V b, V yes, V no) {
  return {_mm256_blendv_ps(no.r, yes.r, _mm256_cmp_ps(a.r, b.r, _CMP_LT_OQ))};
}
static inline V scale2(V x, V n) {
  __m256i e =
      _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n.r), _mm256_set1_epi32(127)), 23);
  return {_mm256_mul_ps(x.r, _mm256_castsi256_ps(e))};
}
// log2 x within 0.09 for normal x > 0: the bits as a number
static inline V log2_of_bits(V x) {
  return {_mm256_fmsub_ps(_mm256_cvtepi32_ps(_mm256_castps_si256(x.r)),
                          _mm256_set1_ps(1.0f / (1 << 23)), _mm256_set1_ps(127.0f))};
}
// n may be any number: it saturates near 2^-126 and 2^127. A NaN in x stays one.
static inline V scale2_any(V x, V n) {
  return scale2(x, vmin(set1(127.0f), vmax(set1(-126.0f), n)));
}
static inline float sum(V v) {
  __m128 h = _mm_add_ps(_mm256_castps256_ps128(v.r), _mm256_extractf128_ps(v.r, 1));
  h = _mm_add_ps(h, _mm_movehl_ps(h, h));
  return _mm_cvtss_f32(_mm_add_ss(h, _mm_shuffle_ps(h, h, 1)));
}
static inline float maximum(V v) {
  __m128 h = _mm_max_ps(_mm256_castps256_ps128(v.r), _mm256_extractf128_ps(v.r, 1));
  h = _mm_max_ps(h, _mm_movehl_ps(h, h));
  return _mm_cvtss_f32(_mm_max_ss(h, _mm_shuffle_ps(h, h, 1)));
}
struct P {
  V lo, hi;
};
static inline P load_pairs(const uint16_t* b) {
  __m256i bits = _mm256_loadu_si256((const __m256i*)b);
  return {{_mm256_castsi256_ps(_mm256_slli_epi32(bits, 16))},
          {_mm256_castsi256_ps(_mm256_and_si256(bits, _mm256_set1_epi32(int(0xffff0000u))))}};
}
static inline V dot_pair(V acc, uint32_t pair, P b) {
  acc = fma({_mm256_castsi256_ps(_mm256_set1_epi32(int(pair << 16)))}, b.lo, acc);
  return fma({_mm256_castsi256_ps(_mm256_set1_epi32(int(pair & 0xffff0000u)))}, b.hi, acc);
}
// Bits of bfloat16 pairs in float lanes: (even[i], odd[i]) by lane, and neighbours of the 16 values
// of low and high.
static inline V pair_up(V even, V odd) {
  __m256i lo = _mm256_cvtepu16_epi32(to_bits(even)),
          hi = _mm256_slli_epi32(_mm256_cvtepu16_epi32(to_bits(odd)), 16);
  return {_mm256_castsi256_ps(_mm256_or_si256(lo, hi))};
}
static inline V neighbour_pairs(V low, V high) {
  return {_mm256_castsi256_ps(_mm256_set_m128i(to_bits(high), to_bits(low)))};
}
static inline void split_pairs(const float* p, V& even, V& odd) {
  __m256i bits = _mm256_loadu_si256((const __m256i*)p);
  even = {_mm256_castsi256_ps(_mm256_slli_epi32(bits, 16))};
  odd = {_mm256_castsi256_ps(_mm256_and_si256(bits, _mm256_set1_epi32(int(0xffff0000u))))};
}
// Rows become columns.
static inline void transpose(V (&m)[8]) {
  __m256 t[8];
#pragma GCC unroll 4
  for (int i = 0; i < 8; i += 2) {
    t[i] = _mm256_unpacklo_ps(m[i].r, m[i + 1].r);
    t[i + 1] = _mm256_unpackhi_ps(m[i].r, m[i + 1].r);
  }
  __m256 u[8];
#pragma GCC unroll 2
  for (int i = 0; i < 8; i += 4) {
    u[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
    u[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xee);
    u[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
    u[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xee);
  }
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    m[j].r = _mm256_permute2f128_ps(u[j], u[4 + j], 0x20);
    m[4 + j].r = _mm256_permute2f128_ps(u[j], u[4 + j], 0x31);
  }
}
static inline void store_interleaved(uint16_t* out, const uint16_t* even, const uint16_t* odd) {
  __m256i lo =
      even ? _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)even)) : _mm256_setzero_si256();
  __m256i hi =
      odd ? _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)odd)), 16)
          : _mm256_setzero_si256();
  _mm256_storeu_si256((__m256i*)out, _mm256_or_si256(lo, hi));
}
// out[pair][row] = in[row][pair] for up to 8 rows and pairs; zero past `rows` and `halves`
static inline void transpose_tile(uint32_t* out,
                                  int64_t ldo,
                                  const uint16_t* in,
                                  int64_t ldi,
                                  int64_t rows,
                                  int64_t halves) {
  uint16_t buffer[8 * 16];
  if (rows < 8 || halves < 16) {
    memset(buffer, 0, sizeof(buffer));
    for (int64_t i = 0; i < rows && i < 8; ++i)
      memcpy(buffer + 16 * i, in + i * ldi, size_t(halves < 16 ? halves : 16) * 2);
    in = buffer;
    ldi = 16;
  }
  __m256i r[8], t[8];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) r[i] = _mm256_loadu_si256((const __m256i*)(in + i * ldi));
#pragma GCC unroll 4
  for (int i = 0; i < 8; i += 2) {
    t[i] = _mm256_unpacklo_epi32(r[i], r[i + 1]);
    t[i + 1] = _mm256_unpackhi_epi32(r[i], r[i + 1]);
  }
#pragma GCC unroll 2
  for (int i = 0; i < 8; i += 4) {
    r[i] = _mm256_unpacklo_epi64(t[i], t[i + 2]);
    r[i + 1] = _mm256_unpackhi_epi64(t[i], t[i + 2]);
    r[i + 2] = _mm256_unpacklo_epi64(t[i + 1], t[i + 3]);
    r[i + 3] = _mm256_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
  const int64_t pairs = (halves + 1) / 2;
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    if (j < pairs)
      _mm256_storeu_si256((__m256i*)(out + j * ldo),
                          _mm256_permute2x128_si256(r[j], r[4 + j], 0x20));
    if (4 + j < pairs)
      _mm256_storeu_si256((__m256i*)(out + (4 + j) * ldo),
                          _mm256_permute2x128_si256(r[j], r[4 + j], 0x31));
  }
}
#define SPINDLE_ROWS {0, 6, 6, 0, 0}
#define SPINDLE_MAX_VECTORS 2
