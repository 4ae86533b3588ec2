// Elementary functions and normalisation. Included once per instruction set.

// e^x: range reduction by ln 2 in two parts, then 1 + r + r^2 q(r) with q fitted at Chebyshev nodes
// (error 2e-10 before rounding, 0.8 ulp after); saturates instead of overflowing.
static inline V vexp(V x) {
  x = vmin(vmax(x, set1(-87.33654f)), set1(88.37626f));
  V n = vmin(vround(x * set1(1.44269504088896341f)), set1(127.0f));
  V r = fma(n, set1(-0.693359375f), x);
  r = fma(n, set1(2.12194440e-4f), r);
  V q = set1(1.989950879e-04f);
  q = fma(q, r, set1(1.393382300e-03f));
  q = fma(q, r, set1(8.333298200e-03f));
  q = fma(q, r, set1(4.166646336e-02f));
  q = fma(q, r, set1(1.666666672e-01f));
  q = fma(q, r, set1(5.000000014e-01f));
  V p = fma(r * r, q, r) + set1(1.0f);
  return scale2(p, n);
}
// e^x, as exact as what it is rounded to: for bfloat16 (4e-3) 2^n times a polynomial fitted at
// Chebyshev nodes, relative error 4e-6. A NaN stays one.
static inline V exp_for(V x, const float*) { return vexp(x); }
static inline V exp2_fraction(V r) {
  V p = fma(set1(9.666368515e-03f), r, set1(5.592197584e-02f));
  p = fma(p, r, set1(2.402234904e-01f));
  p = fma(p, r, set1(6.931210452e-01f));
  return fma(p, r, set1(1.000000000e+00f));
}
static inline V exp2_rounded(V x) {  // of -126 .. 126
  V n = vround(x);
  return scale2(exp2_fraction(x - n), n);
}
static inline V exp_for(V x, const uint16_t*) {
  return exp2_rounded(vmin(set1(126.0f), vmax(set1(-126.0f), x * set1(1.44269504088896341f))));
}
static inline V sigmoid_for(V x, const float* exact) {
  return set1(1.0f) / (set1(1.0f) + exp_for(zero() - x, exact));
}
static inline V sigmoid_for(V x, const uint16_t* rounded) {
  V d = set1(1.0f) + exp_for(zero() - x, rounded), r = reciprocal_estimate(d);
  return r * (set1(2.0f) - d * r);  // one step of Newton's: error below 2e-7
}
static inline V silu_for(V x, const float* exact) {
  return quotient(x, set1(1.0f) + exp_for(zero() - x, exact));
}
static inline V silu_for(V x, const uint16_t* rounded) { return x * sigmoid_for(x, rounded); }
// erf from two polynomials fitted at Chebyshev nodes, relative error 2e-9 before rounding: x P(x^2)
// below 1, 1 - e^(-x^2) Q(1 / (1 + x / 2)) above.
static inline V verf(V x) {
  V a = vabs(x), u = x * x;
  V p = set1(7.882497111e-05f);
  p = fma(p, u, set1(-8.018854992e-04f));
  p = fma(p, u, set1(5.189311943e-03f));
  p = fma(p, u, set1(-2.685432880e-02f));
  p = fma(p, u, set1(1.128359746e-01f));
  p = fma(p, u, set1(-3.761262690e-01f));
  p = fma(p, u, set1(1.128379166e+00f));
  V t = set1(1.0f) / fma(set1(0.5f), a, set1(1.0f));
  V q = set1(1.175492045e-01f);
  q = fma(q, t, set1(-4.648574706e-01f));
  q = fma(q, t, set1(5.537613369e-01f));
  q = fma(q, t, set1(-9.575580107e-02f));
  q = fma(q, t, set1(3.439391254e-01f));
  q = fma(q, t, set1(2.608184452e-01f));
  q = fma(q, t, set1(2.847302271e-01f));
  q = fma(q, t, set1(-1.416987400e-04f));
  V large = copysign(set1(1.0f) - q * vexp(zero() - u), x);
  return select_less(a, set1(1.0f), x * p, large);
}
// The normal distribution's cumulative function, as exact as what it is rounded to. For bfloat16
// the tail of |x|, up to 8, is 2 to the power of a polynomial fitted at Chebyshev nodes (relative
// error 6e-6).
static inline V normal_cdf_for(V x, const float*) {
  return set1(0.5f) * (set1(1.0f) + verf(x * set1(0.70710678118654752f)));
}
static inline V normal_cdf_for(V x, const uint16_t*) {
  V a = vmin(set1(8.0f), vabs(x));
  V p = fma(set1(7.070162411e-08f), a, set1(-3.538044666e-06f));
  p = fma(p, a, set1(7.800353342e-05f));
  p = fma(p, a, set1(-1.010911107e-03f));
  p = fma(p, a, set1(8.718259633e-03f));
  p = fma(p, a, set1(-5.423998460e-02f));
  p = fma(p, a, set1(-4.583077431e-01f));
  p = fma(p, a, set1(-1.151265740e+00f));
  V tail = exp2_rounded(fma(p, a, set1(-1.0f)));
  return select_less(x, zero(), tail, set1(1.0f) - tail);
}
template <class T>
static inline V silu_gradient_for(V x, const T* rounded) {
  V s = sigmoid_for(x, rounded);
  return s * (set1(1.0f) + x * (set1(1.0f) - s));
}
template <class T>
static inline V gelu_gradient_for(V x, const T* rounded) {
  return fma(x * set1(0.3989422804014327f), exp_for(set1(-0.5f) * x * x, rounded),
             normal_cdf_for(x, rounded));
}

template <class T>
static inline V load_any(const T* p, int64_t n) {
  return n >= V::W ? load(p) : load_n(p, n);
}
template <class T>
static inline void store_any(T* p, V v, int64_t n) {
  if (n >= V::W)
    store(p, v);
  else
    store_n(p, v, n);
}
// Float partial sums over this many pixels, then double.
constexpr int64_t kPartial = 32;

static inline void add_to_double(double* sum, V v, int64_t n) {
  float lanes[V::W];
  store(lanes, v);
  if (n < V::W) {
    for (int64_t i = 0; i < n; ++i) sum[i] += double(lanes[i]);
    return;
  }
#pragma GCC unroll 2
  for (int h = 0; h < 2; ++h) {
    HalfFloats half;
    HalfWide total;
    memcpy(&half, lanes + h * (V::W / 2), sizeof half);
    memcpy(&total, sum + h * (V::W / 2), sizeof total);
    total += __builtin_convertvector(half, HalfWide);
    memcpy(sum + h * (V::W / 2), &total, sizeof total);
  }
}
// f(x, sum) over pixels in four chains.
template <class T, class F>
static inline V pixel_sums(const T* x, int64_t pixels, int64_t channels, int64_t n, F&& f) {
  V sums[4] = {zero(), zero(), zero(), zero()};
  int64_t p = 0;
  if (n >= V::W)
    for (; p + 4 <= pixels; p += 4)
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) sums[j] = f(load(x + (p + j) * channels), sums[j]);
  for (; p < pixels; ++p) sums[0] = f(load_any(x + p * channels, n), sums[0]);
  return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

template <class T>
static void channel_sums_typed(double* sum, const T* x, int64_t pixels, int64_t channels) {
  for (int64_t p0 = 0; p0 < pixels; p0 += kPartial) {
    int64_t count = p0 + kPartial < pixels ? kPartial : pixels - p0;
    for (int64_t c = 0; c < channels; c += V::W)
      add_to_double(sum + c,
                    pixel_sums(x + p0 * channels + c, count, channels, channels - c,
                               [](V v, V s) { return s + v; }),
                    channels - c);
  }
}
template <class T>
static void channel_square_sums_typed(double* sum,
                                      const T* x,
                                      const float* mean,
                                      int64_t pixels,
                                      int64_t channels) {
  for (int64_t p0 = 0; p0 < pixels; p0 += kPartial) {
    int64_t count = p0 + kPartial < pixels ? kPartial : pixels - p0;
    for (int64_t c = 0; c < channels; c += V::W) {
      V m = load_any(mean + c, channels - c);
      V squares = pixel_sums(x + p0 * channels + c, count, channels, channels - c, [m](V v, V s) {
        V d = v - m;
        return fma(d, d, s);
      });
      add_to_double(sum + c, squares, channels - c);
    }
  }
}
template <class T, bool SILU>
static void normalize_typed(T* y,
                            const T* x,
                            const float* mean,
                            const float* scale,
                            const float* shift,
                            int64_t pixels,
                            int64_t channels) {
  for (int64_t p0 = 0; p0 < pixels;
       p0 += kPartial) {  // few pixels at a time: neighbouring vectors share cache lines
    int64_t p1 = p0 + kPartial < pixels ? p0 + kPartial : pixels;
    for (int64_t c = 0; c < channels; c += V::W) {
      int64_t n = channels - c;
      V m = load_any(mean + c, n), a = load_any(scale + c, n), b = load_any(shift + c, n);
      for (int64_t p = p0; p < p1; ++p) {
        V z = fma(load_any(x + p * channels + c, n) - m, a, b);
        if (SILU) z = silu_for(z, x);
        store_any(y + p * channels + c, z, n);
      }
    }
  }
}
template <class T, bool SILU>
static void norm_gradient_sums_typed(double* sum_dz,
                                     double* sum_dz_xhat,
                                     float* kept_dz,
                                     const T* dy,
                                     const T* x,
                                     const float* scale,
                                     const float* shift,
                                     const float* mean,
                                     const float* rstd,
                                     int64_t pixels,
                                     int64_t channels) {
  for (int64_t p0 = 0; p0 < pixels; p0 += kPartial) {
    int64_t p1 = p0 + kPartial < pixels ? p0 + kPartial : pixels;
    for (int64_t c = 0; c < channels; c += V::W) {
      int64_t n = channels - c;
      V a = load_any(scale + c, n), b = load_any(shift + c, n), m = load_any(mean + c, n),
        r = load_any(rstd + c, n);
      V s1 = zero(), s2 = zero();
      for (int64_t p = p0; p < p1; ++p) {
        V xv = load_any(x + p * channels + c, n), dz = load_any(dy + p * channels + c, n);
        if (SILU) {
          dz = dz * silu_gradient_for(fma(xv - m, a, b), x);
          if (kept_dz) store_any(kept_dz + p * channels + c, dz, n);
        }
        s1 = s1 + dz;
        s2 = fma(dz, (xv - m) * r, s2);
      }
      add_to_double(sum_dz + c, s1, n);
      add_to_double(sum_dz_xhat + c, s2, n);
    }
  }
}
// `dy` is dz itself unless SILU.
template <class T, class D, bool SILU>
static void norm_gradient_apply_typed(T* dx,
                                      const D* dy,
                                      const T* x,
                                      const float* mean,
                                      const float* scale,
                                      const float* shift,
                                      const float* c_dz,
                                      const float* c_x,
                                      const float* c_1,
                                      int64_t pixels,
                                      int64_t channels,
                                      bool accumulate) {
  for (int64_t p0 = 0; p0 < pixels; p0 += kPartial) {
    int64_t p1 = p0 + kPartial < pixels ? p0 + kPartial : pixels;
    for (int64_t c = 0; c < channels; c += V::W) {
      int64_t n = channels - c;
      V m = load_any(mean + c, n), a = load_any(scale + c, n), b = load_any(shift + c, n),
        k0 = load_any(c_dz + c, n), k1 = load_any(c_x + c, n), k2 = load_any(c_1 + c, n);
      for (int64_t p = p0; p < p1; ++p) {
        int64_t i = p * channels + c;
        V xv = load_any(x + i, n) - m, dz = load_any(dy + i, n);
        if (SILU) dz = dz * silu_gradient_for(fma(xv, a, b), x);
        V v = fma(dz, k0, fma(xv, k1, k2));
        if (accumulate) v = load_any(dx + i, n) + v;
        store_any(dx + i, v, n);
      }
    }
  }
}

template <class T>
static void layer_norm_typed(T* y,
                             float* mean,
                             float* rstd,
                             const T* x,
                             const float* gamma,
                             const float* beta,
                             double eps,
                             int64_t rows,
                             int64_t channels) {
  for (int64_t row = 0; row < rows; ++row, x += channels, y += channels) {
    V acc = zero();
    for (int64_t c = 0; c < channels; c += V::W) acc = acc + load_any(x + c, channels - c);
    float m = sum(acc) / float(channels);
    V mv = set1(m), sq = zero();
    for (int64_t c = 0; c < channels; c += V::W) {
      int64_t n = channels - c;
      V d = load_any(x + c, n) - mv;
      if (n < V::W) {  // lanes past the end hold -mean
        float lanes[V::W];
        store(lanes, d);
        for (int64_t i = n; i < V::W; ++i) lanes[i] = 0;
        d = load(lanes);
      }
      sq = fma(d, d, sq);
    }
    float r = float(1.0 / sqrt(double(sum(sq)) / double(channels) + eps));
    mean[row] = m;
    rstd[row] = r;
    V rv = set1(r);
    for (int64_t c = 0; c < channels; c += V::W) {
      int64_t n = channels - c;
      store_any(y + c,
                fma((load_any(x + c, n) - mv) * rv, load_any(gamma + c, n), load_any(beta + c, n)),
                n);
    }
  }
}
template <class T>
static void layer_norm_backward_typed(T* dx,
                                      float* dgamma,
                                      float* dbeta,
                                      const T* dy,
                                      const T* x,
                                      const float* mean,
                                      const float* rstd,
                                      const float* gamma,
                                      int64_t rows,
                                      int64_t channels,
                                      bool accumulate) {
  for (int64_t row = 0; row < rows; ++row) {
    const T *dyr = dy + row * channels, *xr = x + row * channels;
    V m = set1(mean[row]), r = set1(rstd[row]), s1 = zero(), s2 = zero();
    for (int64_t c = 0; c < channels; c += V::W) {
      int64_t n = channels - c;
      V d = load_any(dyr + c, n), xhat = (load_any(xr + c, n) - m) * r;
      if (dgamma) store_any(dgamma + c, fma(d, xhat, load_any(dgamma + c, n)), n);
      if (dbeta) store_any(dbeta + c, load_any(dbeta + c, n) + d, n);
      V g = d * load_any(gamma + c, n);  // 0 past the end: d is
      s1 = s1 + g;
      s2 = fma(g, xhat, s2);
    }
    if (!dx) continue;
    V a = set1(sum(s1) / float(channels)), b = set1(sum(s2) / float(channels));
    T* dxr = dx + row * channels;
    for (int64_t c = 0; c < channels; c += V::W) {
      int64_t n = channels - c;
      V xhat = (load_any(xr + c, n) - m) * r;
      V v = (load_any(dyr + c, n) * load_any(gamma + c, n) - a - xhat * b) * r;
      if (accumulate) v = load_any(dxr + c, n) + v;
      store_any(dxr + c, v, n);
    }
  }
}

static void channel_sums(double* s, const void* x, int64_t pixels, int64_t channels, bool bf16) {
  bf16 ? channel_sums_typed(s, (const uint16_t*)x, pixels, channels)
       : channel_sums_typed(s, (const float*)x, pixels, channels);
}
static void channel_square_sums(double* s,
                                const void* x,
                                const float* mean,
                                int64_t pixels,
                                int64_t channels,
                                bool bf16) {
  bf16 ? channel_square_sums_typed(s, (const uint16_t*)x, mean, pixels, channels)
       : channel_square_sums_typed(s, (const float*)x, mean, pixels, channels);
}
template <class T>
static void normalize_silu(T* y,
                           const T* x,
                           const float* m,
                           const float* a,
                           const float* b,
                           int64_t pixels,
                           int64_t channels,
                           bool silu) {
  silu ? normalize_typed<T, true>(y, x, m, a, b, pixels, channels)
       : normalize_typed<T, false>(y, x, m, a, b, pixels, channels);
}
static void normalize(void* y,
                      const void* x,
                      const float* m,
                      const float* a,
                      const float* b,
                      int64_t pixels,
                      int64_t channels,
                      bool silu,
                      bool bf16) {
  bf16 ? normalize_silu((uint16_t*)y, (const uint16_t*)x, m, a, b, pixels, channels, silu)
       : normalize_silu((float*)y, (const float*)x, m, a, b, pixels, channels, silu);
}
template <class T>
static void norm_gradient_sums_silu(double* s1,
                                    double* s2,
                                    float* dz,
                                    const T* dy,
                                    const T* x,
                                    const float* a,
                                    const float* b,
                                    const float* m,
                                    const float* r,
                                    int64_t pixels,
                                    int64_t channels,
                                    bool silu) {
  silu ? norm_gradient_sums_typed<T, true>(s1, s2, dz, dy, x, a, b, m, r, pixels, channels)
       : norm_gradient_sums_typed<T, false>(s1, s2, dz, dy, x, a, b, m, r, pixels, channels);
}
static void norm_gradient_sums(double* s1,
                               double* s2,
                               float* dz,
                               const void* dy,
                               const void* x,
                               const float* a,
                               const float* b,
                               const float* m,
                               const float* r,
                               int64_t pixels,
                               int64_t channels,
                               bool silu,
                               bool bf16) {
  bf16 ? norm_gradient_sums_silu(s1, s2, dz, (const uint16_t*)dy, (const uint16_t*)x, a, b, m, r,
                                 pixels, channels, silu)
       : norm_gradient_sums_silu(s1, s2, dz, (const float*)dy, (const float*)x, a, b, m, r, pixels,
                                 channels, silu);
}
template <class T>
static void norm_gradient_apply_silu(T* dx,
                                     const float* dz,
                                     const T* dy,
                                     const T* x,
                                     const float* m,
                                     const float* a,
                                     const float* b,
                                     const float* k0,
                                     const float* k1,
                                     const float* k2,
                                     int64_t pixels,
                                     int64_t channels,
                                     bool silu,
                                     bool accumulate) {
  if (silu && dz)
    norm_gradient_apply_typed<T, float, false>(dx, dz, x, m, a, b, k0, k1, k2, pixels, channels,
                                               accumulate);
  else if (silu)
    norm_gradient_apply_typed<T, T, true>(dx, dy, x, m, a, b, k0, k1, k2, pixels, channels,
                                          accumulate);
  else
    norm_gradient_apply_typed<T, T, false>(dx, dy, x, m, a, b, k0, k1, k2, pixels, channels,
                                           accumulate);
}
static void norm_gradient_apply(void* dx,
                                const float* dz,
                                const void* dy,
                                const void* x,
                                const float* m,
                                const float* a,
                                const float* b,
                                const float* k0,
                                const float* k1,
                                const float* k2,
                                int64_t pixels,
                                int64_t channels,
                                bool silu,
                                bool accumulate,
                                bool bf16) {
  bf16 ? norm_gradient_apply_silu((uint16_t*)dx, dz, (const uint16_t*)dy, (const uint16_t*)x, m, a,
                                  b, k0, k1, k2, pixels, channels, silu, accumulate)
       : norm_gradient_apply_silu((float*)dx, dz, (const float*)dy, (const float*)x, m, a, b, k0,
                                  k1, k2, pixels, channels, silu, accumulate);
}
static void layer_norm(void* y,
                       float* mean,
                       float* rstd,
                       const void* x,
                       const float* gamma,
                       const float* beta,
                       double eps,
                       int64_t rows,
                       int64_t channels,
                       bool bf16) {
  bf16 ? layer_norm_typed((uint16_t*)y, mean, rstd, (const uint16_t*)x, gamma, beta, eps, rows,
                          channels)
       : layer_norm_typed((float*)y, mean, rstd, (const float*)x, gamma, beta, eps, rows, channels);
}
static void layer_norm_backward(void* dx,
                                float* dgamma,
                                float* dbeta,
                                const void* dy,
                                const void* x,
                                const float* mean,
                                const float* rstd,
                                const float* gamma,
                                int64_t rows,
                                int64_t channels,
                                bool accumulate,
                                bool bf16) {
  bf16
      ? layer_norm_backward_typed((uint16_t*)dx, dgamma, dbeta, (const uint16_t*)dy,
                                  (const uint16_t*)x, mean, rstd, gamma, rows, channels, accumulate)
      : layer_norm_backward_typed((float*)dx, dgamma, dbeta, (const float*)dy, (const float*)x,
                                  mean, rstd, gamma, rows, channels, accumulate);
}
