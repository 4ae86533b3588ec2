// Attention's gradients for a block of keys and a block of queries; see attention_lanes.inl.
// Included once per instruction set, after attention_forward.inl. Scores and gradients of weights
// are made side by side, keys by queries, and written once in the forms that the other three
// products take: by rows of pairs of queries for dV and dK, in pairs of keys for dQ.

// P and dS of R keys and GV vectors of queries.
template <class T, int R, int GV>
static void gradient_tile(const AttentionGradient& g,
                          int64_t lanes,
                          int64_t key,
                          int64_t lane,
                          float* p,
                          float* ds,
                          float* ds_pairs) {
  const int64_t n = kPaired<T> ? (g.d + 1) / 2 : g.d, visible = g.visible + key - lane;
  const V f = set1(g.scale / kUnit<T>);
  V s[R][GV], w[R][GV];
  clear(s);
  add_products<R, GV, kPaired<T>, false>(s, g.k + key * n, n, g.q + lane, lanes, n);
#pragma GCC unroll 4
  for (int j = 0; j < GV; ++j) {
    const V low = zero() - load(g.lse + lane + j * V::W),
            start = zero() - load(g.delta + lane + j * V::W);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      s[r][j] = fma(s[r][j], f, low);
      w[r][j] = start;
    }
  }
  hide(s, visible);
  add_products<R, GV, kPaired<T>, false>(w, g.v + key * n, n, g.d_o + lane, lanes, n);
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int j = 0; j < GV; ++j) {
      s[r][j] = weight_for(s[r][j], (const T*)nullptr);
      w[r][j] = s[r][j] * w[r][j];
    }
  if (!kPaired<T>) {
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
      for (int j = 0; j < GV; ++j) {
        store(p + (key + r) * lanes + lane + j * V::W, s[r][j]);
        store(ds + (key + r) * lanes + lane + j * V::W, w[r][j]);
      }
    return;
  }
  if (g.dk) {
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const int64_t at = ((key + r) * lanes + lane) / 2;
      if constexpr (GV == 2) {
        store(p + at, neighbour_pairs(s[r][0], s[r][1]));
        store(ds + at, neighbour_pairs(w[r][0], w[r][1]));
      } else {
        store((uint16_t*)(p + at), s[r][0]);
        store((uint16_t*)(ds + at), w[r][0]);
      }
    }
  }
  if (g.dq) {
#pragma GCC unroll 8
    for (int r = 0; r < R; r += 2)
#pragma GCC unroll 4
      for (int j = 0; j < GV; ++j)
        store(ds_pairs + (key + r) / 2 * lanes + lane + j * V::W,
              pair_up(w[r][j], r + 1 < R ? w[r + 1 < R ? r + 1 : r][j] : zero()));
  }
}

// c[row] += a[row] * b for R rows and NV vectors of columns; a in pairs.
template <int R, int NV, bool PAIRS>
static void gradient_row_tile(float* c,
                              int64_t ldc,
                              const float* a,
                              int64_t lda,
                              const float* b,
                              int64_t n) {
  V acc[R][NV];
  clear(acc);
  add_products<R, NV, PAIRS, false>(acc, a, lda, b, ldc, n);
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j)
      store(c + r * ldc + j * V::W, load(c + r * ldc + j * V::W) + acc[r][j]);
}
template <int NV, bool PAIRS>
static void gradient_rows(float* c,
                          int64_t ld,
                          const float* a,
                          int64_t lda,
                          int64_t rows,
                          const float* b,
                          int64_t n) {
  for_tiles<kLaneRows<NV>>(rows, [&](int64_t r, auto tile) {
    gradient_row_tile<decltype(tile)::value, NV, PAIRS>(c + r * ld, ld, a + r * lda, lda, b, n);
  });
}
template <bool PAIRS>
static void add_gradient_rows(float* c,
                              int64_t ld,
                              const float* a,
                              int64_t lda,
                              int64_t rows,
                              const float* b,
                              int64_t n) {
  constexpr int64_t panel = SPINDLE_MAX_VECTORS * V::W;
  for (int64_t column = 0; column < ld; column += panel) switch ((ld - column) / V::W) {
      case 1:
        gradient_rows<1, PAIRS>(c + column, ld, a, lda, rows, b + column, n);
        break;
#if SPINDLE_MAX_VECTORS == 4
      case 2:
        gradient_rows<2, PAIRS>(c + column, ld, a, lda, rows, b + column, n);
        break;
      case 3:
        gradient_rows<3, PAIRS>(c + column, ld, a, lda, rows, b + column, n);
        break;
#endif
      default:
        gradient_rows<SPINDLE_MAX_VECTORS, PAIRS>(c + column, ld, a, lda, rows, b + column, n);
        break;
    }
}

// Keys and vectors of queries at once: two products' sums share the registers.
constexpr int kGradientKeys = SPINDLE_MAX_VECTORS == 4 ? 6 : 3;

template <class T, int NV>
static void attend_gradient(const AttentionGradient& g) {
  constexpr int64_t L = NV * V::W, pair = kPaired<T> ? 2 : 1;
  float *p = g.scratch, *ds = p + kAttentionKeys * L / pair,
        *ds_pairs = kPaired<T> ? ds + kAttentionKeys * L / pair : ds;
  for (int64_t lane = 0; lane < L; lane += 2 * V::W)
    for_tiles<kGradientKeys>(g.keys, [&](int64_t key, auto rows) {
      if (NV > 1 && lane + 2 * V::W <= L)
        gradient_tile<T, decltype(rows)::value, 2>(g, L, key, lane, p, ds, ds_pairs);
      else
        gradient_tile<T, decltype(rows)::value, 1>(g, L, key, lane, p, ds, ds_pairs);
    });
  if (g.dk) {
    const int64_t n = (g.queries + pair - 1) / pair;
    add_gradient_rows<kPaired<T>>(g.dv, g.ld, p, L / pair, g.keys, g.do_rows, n);
    add_gradient_rows<kPaired<T>>(g.dk, g.ld, ds, L / pair, g.keys, g.q_rows, n);
  }
  if (g.dq)
    for_tiles<kLaneRows<NV>>(g.d, [&](int64_t r, auto rows) {
      output_tile<decltype(rows)::value, NV, kPaired<T>>(g.dq + r * L, g.k_pairs + r, g.d, ds_pairs,
                                                         (g.keys + pair - 1) / pair, g.lse,
                                                         Before::Same);
    });
}
template <class T>
static void attend_gradient_typed(const AttentionGradient& g) {
  switch ((g.queries + V::W - 1) / V::W) {
    case 1:
      return attend_gradient<T, 1>(g);
#if SPINDLE_MAX_VECTORS == 4
    case 2:
      return attend_gradient<T, 2>(g);
    case 3:
      return attend_gradient<T, 3>(g);
#endif
    default:
      return attend_gradient<T, SPINDLE_MAX_VECTORS>(g);
  }
}
static void attention_gradient(const AttentionGradient& g, bool bf16) {
  bf16 ? attend_gradient_typed<uint16_t>(g) : attend_gradient_typed<float>(g);
}

template <class T>
static void gradient_queries_typed(const AttentionQueries& g) {
  const T *q = (const T*)g.q, *o = (const T*)g.o, *d_o = (const T*)g.d_o;
  const int64_t lanes = (g.queries + V::W - 1) / V::W * V::W;
  lanes_of(g.q_lanes, lanes, q, g.stride, g.queries, g.d, g.buffer);
  lanes_of(g.do_lanes, lanes, d_o, g.stride, g.queries, g.d, g.buffer);
  if (g.q_rows) {
    attention_row_pairs_typed(g.q_rows, q, g.stride, g.queries, g.d, g.ld);
    attention_row_pairs_typed(g.do_rows, d_o, g.stride, g.queries, g.d, g.ld);
  }
  for (int64_t r = 0; r < lanes; r += V::W) {
    const int64_t left = g.queries - r;
    V products[V::W], sums = zero();
    for (int i = 0; i < V::W; ++i) {
      products[i] = zero();
      if (i < left)
        for (int64_t c = 0; c < g.d; c += V::W)
          products[i] = fma(load_any(o + (r + i) * g.stride + c, g.d - c),
                            load_any(d_o + (r + i) * g.stride + c, g.d - c), products[i]);
    }
    transpose(products);
    for (int i = 0; i < V::W; ++i) sums = sums + products[i];
    store(g.delta + r, sums);
    for (int64_t i = r; i < r + V::W; ++i)
      g.lse_lanes[i] = i < g.queries ? g.lse[i] / kUnit<T> : 1e30f;  // no weight for what pads
  }
}
static void attention_gradient_queries(const AttentionQueries& g, bool bf16) {
  bf16 ? gradient_queries_typed<uint16_t>(g) : gradient_queries_typed<float>(g);
}
static void attention_store_lanes(void* y,
                                  int64_t stride,
                                  const float* x,
                                  int64_t queries,
                                  int64_t d,
                                  float factor,
                                  bool accumulate,
                                  bool bf16) {
  alignas(64) float factors[kAttentionQueries];
  for (int64_t i = 0; i < kAttentionQueries; ++i) factors[i] = factor;
  const int64_t lanes = (queries + V::W - 1) / V::W * V::W;
  bf16 ? rows_of((uint16_t*)y, stride, x, lanes, queries, d, factors, accumulate)
       : rows_of((float*)y, stride, x, lanes, queries, d, factors, accumulate);
}
template <class T>
static void store_rows_typed(T* y,
                             int64_t stride,
                             const float* x,
                             int64_t ld,
                             int64_t rows,
                             int64_t d,
                             float factor,
                             bool accumulate) {
  const V f = set1(factor);
  for (int64_t r = 0; r < rows; ++r, y += stride, x += ld)
    for (int64_t c = 0; c < d; c += V::W) {
      V v = load(x + c) * f;
      store_any(y + c, accumulate ? load_any(y + c, d - c) + v : v, d - c);
    }
}
static void attention_store_rows(void* y,
                                 int64_t stride,
                                 const float* x,
                                 int64_t ld,
                                 int64_t rows,
                                 int64_t d,
                                 float factor,
                                 bool accumulate,
                                 bool bf16) {
  bf16 ? store_rows_typed((uint16_t*)y, stride, x, ld, rows, d, factor, accumulate)
       : store_rows_typed((float*)y, stride, x, ld, rows, d, factor, accumulate);
}
