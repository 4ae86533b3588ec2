// Elementwise passes and optimiser. Included once per instruction set.

static void to_f32(float* y, const uint16_t* x, int64_t n) {
  for (int64_t i = 0; i < n; i += V::W) store_any(y + i, load_any(x + i, n - i), n - i);
}
static void to_bf16(uint16_t* y, const float* x, int64_t n) {
  for (int64_t i = 0; i < n; i += V::W) store_any(y + i, load_any(x + i, n - i), n - i);
}

template <class T>
static inline V gelu_for(V x, const T* rounded) {
  return x * normal_cdf_for(x, rounded);
}
template <class T>
static inline V apply_unary(V x, Unary kind, const T* rounded) {
  switch (kind) {
    case Unary::Silu:
      return x * sigmoid_for(x, rounded);
    case Unary::Gelu:
      return gelu_for(x, rounded);
    case Unary::QuickGelu:
      return x * sigmoid_for(set1(1.702f) * x, rounded);
    default:
      return x;
  }
}
template <class T>
static inline V unary_gradient(V x, Unary kind, const T* rounded) {
  switch (kind) {
    case Unary::Silu:
      return silu_gradient_for(x, rounded);
    case Unary::Gelu:
      return gelu_gradient_for(x, rounded);
    case Unary::QuickGelu: {
      V s = sigmoid_for(set1(1.702f) * x, rounded);
      return s * (set1(1.0f) + set1(1.702f) * x * (set1(1.0f) - s));
    }
    default:
      return set1(1.0f);
  }
}
template <class T>
static void unary_typed(T* y, const T* x, int64_t n, Unary kind) {
  for (int64_t i = 0; i < n; i += V::W)
    store_any(y + i, apply_unary(load_any(x + i, n - i), kind, x), n - i);
}
template <class T>
static void unary_backward_typed(T* dx,
                                 const T* dy,
                                 const T* x,
                                 int64_t n,
                                 Unary kind,
                                 bool accumulate) {
  for (int64_t i = 0; i < n; i += V::W) {
    V v = load_any(dy + i, n - i) * unary_gradient(load_any(x + i, n - i), kind, x);
    if (accumulate) v = load_any(dx + i, n - i) + v;
    store_any(dx + i, v, n - i);
  }
}
template <class T>
static void geglu_typed(T* y, const T* x, int64_t rows, int64_t channels) {
  for (int64_t row = 0; row < rows; ++row, y += channels, x += 2 * channels)
    for (int64_t c = 0; c < channels; c += V::W) {
      int64_t n = channels - c;
      store_any(y + c, load_any(x + c, n) * gelu_for(load_any(x + channels + c, n), x), n);
    }
}
template <class T>
static void geglu_row_typed(T* y,
                            const float* value,
                            const float* gate,
                            const float* value_bias,
                            const float* gate_bias,
                            int64_t n) {
  for (int64_t c = 0; c < n; c += V::W) {
    V v = load_any(value + c, n - c), g = load_any(gate + c, n - c);
    if (value_bias) v = v + load_any(value_bias + c, n - c);
    if (gate_bias) g = g + load_any(gate_bias + c, n - c);
    store_any(y + c, v * gelu_for(g, y), n - c);
  }
}
static void geglu_row(void* y,
                      const float* value,
                      const float* gate,
                      const float* value_bias,
                      const float* gate_bias,
                      int64_t n,
                      bool bf16) {
  bf16 ? geglu_row_typed((uint16_t*)y, value, gate, value_bias, gate_bias, n)
       : geglu_row_typed((float*)y, value, gate, value_bias, gate_bias, n);
}
// Tiles of values and of gates, y = (value + bias) * gelu(gate + bias of the gates). Values wait in
// c.
template <int ROWS, int NV, class T>
static void gemm_geglu_tiles(const GemmCall& g,
                             const void* gates,
                             const float* gate_bias,
                             const TileStore& t) {
  GemmCall values = g, gated = g;
  gated.b = gates;
  for (int64_t tile = 0; tile < t.tiles; ++tile) {
    T* const y = static_cast<T*>(t.y) + tile * ROWS * t.ld;
    V acc[ROWS][NV];
    bool stored = false;
    auto sum = [&](const GemmCall& call) __attribute__((always_inline)) {
      if constexpr (sizeof(T) == 2)
        sum_bf16<ROWS, NV>(call, acc, tile * t.tile_bytes);
      else
        stored = sum_f32<ROWS, NV>(call, acc, tile * t.tile_bytes);
    };
    // The next tile's rows are fetched beside the values, this tile's outputs beside the gates.
    if (g.fetch.from) values.fetch.from = g.fetch.from + tile * t.tile_bytes;
    sum(values);
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
      for (int j = 0; j < NV; ++j) {
        float* c = g.c + r * g.ldc + j * V::W;
        store(c, stored ? load(c) + acc[r][j] : acc[r][j]);
        if ((j * V::W * sizeof(T)) % 64 == 0) __builtin_prefetch(y + r * t.ld + j * V::W, 1);
      }
    gated.c = g.c + ROWS * g.ldc;
    gated.fetch = {};
    sum(gated);
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
      for (int j = 0; j < NV; ++j) {
        float* c = gated.c + r * g.ldc + j * V::W;
        store(c, stored ? load(c) + acc[r][j] : acc[r][j]);
      }
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
      for (int j = 0; j < NV; ++j) {
        const int64_t column = j * V::W;
        V value = load(g.c + r * g.ldc + column), gate = load(gated.c + r * g.ldc + column);
        if (t.bias) value = value + load(t.bias + column);
        if (gate_bias) gate = gate + load(gate_bias + column);
        store(y + r * t.ld + column, value * gelu_for(gate, y));
      }
  }
}
template <class T>
static void gemm_geglu(const GemmCall& g,
                       const void* gates,
                       const float* gate_bias,
                       const TileStore& t) {
  gemm_geglu_tiles<kTileRows[SPINDLE_MAX_VECTORS], SPINDLE_MAX_VECTORS, T>(g, gates, gate_bias, t);
}
template <class T>
static void geglu_backward_typed(T* dx,
                                 const T* dy,
                                 const T* x,
                                 int64_t rows,
                                 int64_t channels,
                                 bool accumulate) {
  for (int64_t row = 0; row < rows; ++row, dy += channels, x += 2 * channels, dx += 2 * channels)
    for (int64_t c = 0; c < channels; c += V::W) {
      int64_t n = channels - c;
      V d = load_any(dy + c, n), value = load_any(x + c, n), gate = load_any(x + channels + c, n);
      V dv = d * gate * normal_cdf_for(gate, x), dg = d * value * gelu_gradient_for(gate, x);
      if (accumulate) {
        dv = load_any(dx + c, n) + dv;
        dg = load_any(dx + channels + c, n) + dg;
      }
      store_any(dx + c, dv, n);
      store_any(dx + channels + c, dg, n);
    }
}
template <class T>
static void add_typed(T* y, const T* a, const T* b, int64_t n) {
  for (int64_t i = 0; i < n; i += V::W)
    store_any(y + i, load_any(a + i, n - i) + load_any(b + i, n - i), n - i);
}
template <class T>
static void scale_typed(T* y, const T* x, float factor, int64_t n) {
  V f = set1(factor);
  for (int64_t i = 0; i < n; i += V::W) store_any(y + i, load_any(x + i, n - i) * f, n - i);
}
template <class T>
static void column_sums_typed(float* s, const T* x, int64_t rows, int64_t n, int64_t ld) {
  for (int64_t c = 0; c < n; c += V::W) {
    V total = load_any(s + c, n - c);
    for (int64_t r0 = 0; r0 < rows; r0 += kPartial) {
      int64_t r1 = r0 + kPartial < rows ? r0 + kPartial : rows;
      V acc = zero();
      for (int64_t r = r0; r < r1; ++r) acc = acc + load_any(x + r * ld + c, n - c);
      total = total + acc;
    }
    store_any(s + c, total, n - c);
  }
}
template <int NV>
static void pair_sums_of(float* sum,
                         const uint16_t* pairs,
                         int64_t count,
                         int64_t rows,
                         int64_t step) {
  V acc[NV];
#pragma GCC unroll 4
  for (int j = 0; j < NV; ++j) acc[j] = zero();
  for (int64_t i = 0; i < count; ++i, pairs += step)
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j)
      acc[j] = dot_pair(acc[j], 0x3f803f80u, load_pairs(pairs + 2 * j * V::W));  // a pair of ones
#pragma GCC unroll 4
  for (int j = 0; j < NV; ++j)
    if (int64_t left = rows - j * V::W; left > 0)
      store_any(sum + j * V::W, load_any(sum + j * V::W, left) + acc[j], left);
}
// Whole vectors are read.
static void pair_sums(float* sum,
                      const uint16_t* pairs,
                      int64_t count,
                      int64_t rows,
                      int64_t step) {
  int64_t r = 0;
  for (; r + 3 * V::W < rows; r += 4 * V::W)
    pair_sums_of<4>(sum + r, pairs + 2 * r, count, rows - r, step);
  for (; r < rows; r += V::W) pair_sums_of<1>(sum + r, pairs + 2 * r, count, rows - r, step);
}

static void unary(void* y, const void* x, int64_t n, Unary kind, bool bf16) {
  bf16 ? unary_typed((uint16_t*)y, (const uint16_t*)x, n, kind)
       : unary_typed((float*)y, (const float*)x, n, kind);
}
static void unary_backward(void* dx,
                           const void* dy,
                           const void* x,
                           int64_t n,
                           Unary kind,
                           bool accumulate,
                           bool bf16) {
  bf16 ? unary_backward_typed((uint16_t*)dx, (const uint16_t*)dy, (const uint16_t*)x, n, kind,
                              accumulate)
       : unary_backward_typed((float*)dx, (const float*)dy, (const float*)x, n, kind, accumulate);
}
static void geglu(void* y, const void* x, int64_t rows, int64_t channels, bool bf16) {
  bf16 ? geglu_typed((uint16_t*)y, (const uint16_t*)x, rows, channels)
       : geglu_typed((float*)y, (const float*)x, rows, channels);
}
static void geglu_backward(void* dx,
                           const void* dy,
                           const void* x,
                           int64_t rows,
                           int64_t channels,
                           bool accumulate,
                           bool bf16) {
  bf16 ? geglu_backward_typed((uint16_t*)dx, (const uint16_t*)dy, (const uint16_t*)x, rows,
                              channels, accumulate)
       : geglu_backward_typed((float*)dx, (const float*)dy, (const float*)x, rows, channels,
                              accumulate);
}
static void add(void* y, const void* a, const void* b, int64_t n, bool bf16) {
  bf16 ? add_typed((uint16_t*)y, (const uint16_t*)a, (const uint16_t*)b, n)
       : add_typed((float*)y, (const float*)a, (const float*)b, n);
}
static void scale(void* y, const void* x, float factor, int64_t n, bool bf16) {
  bf16 ? scale_typed((uint16_t*)y, (const uint16_t*)x, factor, n)
       : scale_typed((float*)y, (const float*)x, factor, n);
}
static void column_sums(float* s, const void* x, int64_t rows, int64_t n, int64_t ld, bool bf16) {
  bf16 ? column_sums_typed(s, (const uint16_t*)x, rows, n, ld)
       : column_sums_typed(s, (const float*)x, rows, n, ld);
}

static void scale_rows(float* o, const float* factor, int64_t rows, int64_t n, int64_t ld) {
  for (int64_t r = 0; r < rows; ++r, o += ld) scale_typed(o, o, factor[r], n);
}
static float dot(const float* a, const float* b, int64_t n) {
  V acc = zero();
  for (int64_t i = 0; i < n; i += V::W)
    acc = fma(load_any(a + i, n - i), load_any(b + i, n - i), acc);
  return sum(acc);
}

static double sum_of_squares(const float* x, int64_t n) {
  double total = 0;
  for (int64_t i0 = 0; i0 < n; i0 += 64 * V::W) {
    int64_t i1 = i0 + 64 * V::W < n ? i0 + 64 * V::W : n;
    V acc = zero();
    for (int64_t i = i0; i < i1; i += V::W) {
      V v = load_any(x + i, i1 - i);
      acc = fma(v, v, acc);
    }
    total += double(sum(acc));
  }
  return total;
}
template <class A, class B>
static double square_differences(const A* a, const B* b, int64_t n) {
  double total = 0;
  for (int64_t i0 = 0; i0 < n; i0 += 64 * V::W) {
    int64_t i1 = i0 + 64 * V::W < n ? i0 + 64 * V::W : n;
    V acc = zero();
    for (int64_t i = i0; i < i1; i += V::W) {
      V d = load_any(a + i, i1 - i) - load_any(b + i, i1 - i);
      acc = fma(d, d, acc);
    }
    total += double(sum(acc));
  }
  return total;
}
static double sum_of_square_differences(const void* a,
                                        const void* b,
                                        int64_t n,
                                        bool a_bf16,
                                        bool b_bf16) {
  if (a_bf16)
    return b_bf16 ? square_differences((const uint16_t*)a, (const uint16_t*)b, n)
                  : square_differences((const uint16_t*)a, (const float*)b, n);
  return b_bf16 ? square_differences((const float*)a, (const uint16_t*)b, n)
                : square_differences((const float*)a, (const float*)b, n);
}
static void adamw(float* w, float* m, float* v, const float* g, int64_t n, const AdamWCall& call) {
  V gs = set1(call.grad_scale), b1 = set1(call.beta1), c1 = set1(call.one_minus_beta1),
    b2 = set1(call.beta2), c2 = set1(call.one_minus_beta2);
  V ss = set1(call.step_size), isc = set1(call.inv_sqrt_correction), e = set1(call.epsilon),
    d = set1(call.decay);
  for (int64_t i = 0; i < n; i += V::W) {
    int64_t left = n - i;
    V gv = load_any(g + i, left) * gs;
    V mv = fma(b1, load_any(m + i, left), c1 * gv),
      vv = fma(b2, load_any(v + i, left), c2 * gv * gv);
    V wv = load_any(w + i, left) * d;
    wv = wv - ss * mv / fma(vsqrt(vv), isc, e);
    store_any(m + i, mv, left);
    store_any(v + i, vv, left);
    store_any(w + i, wv, left);
  }
}
static void lerp(float* y, const float* x, float weight, int64_t n) {
  V wv = set1(weight);
  for (int64_t i = 0; i < n; i += V::W) {
    V yv = load_any(y + i, n - i);
    store_any(y + i, fma(wv, load_any(x + i, n - i) - yv, yv), n - i);
  }
}

#include "kernels/cpu/isa/attention.inl"
#include "kernels/cpu/isa/attention_lanes.inl"
#include "kernels/cpu/isa/attention_forward.inl"
#include "kernels/cpu/isa/attention_gradient.inl"
