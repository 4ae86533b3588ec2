// Attention's output for a block of queries; see attention_lanes.inl. Included once per instruction
// set, after it.
//
// Weights are e^(s f - m), or powers of 2 for bfloat16, made from the scores in registers, where m
// is the largest score of the first keys. Any m serves that keeps weights from overflowing; so it
// is moved, and a block of keys done again, only where weights add up to more than kHeadroom.
constexpr float kHeadroom = 1 << 30;

// Queries below `visible` + r do not see key r.
template <int R, int NV>
static inline __attribute__((always_inline)) void hide(V (&acc)[R][NV], int64_t visible) {
  if (visible + R - 1 <= 0) return;
  alignas(64) float index[NV * V::W];
  for (int i = 0; i < NV * V::W; ++i) index[i] = float(i);
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j)
      acc[r][j] =
          select_less(load(index + j * V::W), set1(float(visible + r)), set1(-1e30f), acc[r][j]);
}

// Statistics of a block of queries, by lane.
template <int L>
struct Statistics {
  alignas(64) float max[L], sum[L], correction[L], seen[L], added[L];
};

// Largest scores of R keys into `seen`.
template <int R, int NV>
static inline __attribute__((always_inline)) void see(const V (&acc)[R][NV], float* seen) {
#pragma GCC unroll 4
  for (int j = 0; j < NV; ++j) {
    V m = load(seen + j * V::W);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) m = vmax(m, acc[r][j]);
    store(seen + j * V::W, m);
  }
}

template <int R, int NV, bool PAIRS>
static void see_tile(const float* k, const float* qt, int64_t n, float* seen, int64_t visible) {
  V acc[R][NV];
  clear(acc);
  add_products<R, NV, PAIRS, false>(acc, k, n, qt, NV * V::W, n);
  hide(acc, visible);
  see(acc, seen);
}

// p[key pair][query] of R keys at once. `start`: the largest of these scores is what weights are
// taken from.
template <int R, int NV, class T>
static void weight_tile(float* p,
                        const float* k,
                        const float* qt,
                        int64_t n,
                        float scale,
                        Statistics<NV * V::W>& stats,
                        int64_t visible,
                        bool start) {
  constexpr int64_t L = NV * V::W;
  V acc[R][NV];
  clear(acc);
  add_products<R, NV, kPaired<T>, false>(acc, k, n, qt, L, n);
  hide(acc, visible);
  if (start) {
    see(acc, stats.seen);
    for (int64_t i = 0; i < L; i += V::W) store(stats.max + i, load(stats.seen + i) * set1(scale));
  }
  const V f = set1(scale);
#pragma GCC unroll 4
  for (int j = 0; j < NV; ++j) {
    const V low = zero() - load(stats.max + j * V::W);
    V total = load(stats.added + j * V::W);
#pragma GCC unroll 8
    for (int r = 0; r < R; r += 2) {
      V even = weight_for(fma(acc[r][j], f, low), (const T*)nullptr),
        odd = r + 1 < R ? weight_for(fma(acc[r + 1 < R ? r + 1 : r][j], f, low), (const T*)nullptr)
                        : zero();
      if (kPaired<T>) {
        store(p + r / 2 * L + j * V::W, pair_up(even, odd));
      } else {
        store(p + r * L + j * V::W, even);
        if (r + 1 < R) store(p + (r + 1) * L + j * V::W, odd);
      }
      total = total + even;
      if (r + 1 < R) total = total + odd;
    }
    store(stats.added + j * V::W, total);
  }
}

// o[column][query] = o * correction + V^T P for R columns; n pairs of keys.
enum class Before { Nothing, Same, Corrected };
template <int R, int NV, bool PAIRS>
static void output_tile(float* o,
                        const float* v,
                        int64_t d,
                        const float* p,
                        int64_t n,
                        const float* correction,
                        Before before) {
  constexpr int64_t L = NV * V::W;
  V acc[R][NV];
  clear(acc);
  add_products<R, NV, PAIRS, true>(acc, v, d, p, L, n);
#pragma GCC unroll 4
  for (int j = 0; j < NV; ++j) {
    V c = load(correction + j * V::W);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      float* to = o + r * L + j * V::W;
      store(to, before == Before::Nothing ? acc[r][j]
                : before == Before::Same  ? load(to) + acc[r][j]
                                          : fma(load(to), c, acc[r][j]));
    }
  }
}

template <class T, int NV>
static void attend(const AttentionForwardCall& g) {
  constexpr bool PAIRS = kPaired<T>;
  constexpr int64_t L = NV * V::W;
  constexpr int R = kLaneRows<NV>;
  const int64_t d = g.d, n = PAIRS ? (d + 1) / 2 : d;
  float *qt = g.scratch, *o = qt + n * L, *p = o + d * L;
  Statistics<L> stats{};
  lanes_of(qt, L, (const T*)g.q, g.stride, g.queries, d, o);
  const float f = g.scale / kUnit<T>;
  for (int64_t k0 = 0; k0 < g.keys; k0 += kAttentionKeys) {
    const int64_t keys = g.keys - k0 < kAttentionKeys ? g.keys - k0 : kAttentionKeys,
                  visible = g.causal ? k0 - g.first : -keys;
    if (visible >= g.queries) break;
    for (int64_t i = 0; i < L; ++i) stats.seen[i] = -__builtin_inff();
    auto make_weights = [&](bool start) {
      for (int64_t i = 0; i < L; ++i) stats.added[i] = 0;
      for_tiles<R>(keys, [&](int64_t r, auto rows) {
        weight_tile<decltype(rows)::value, NV, T>(p + (PAIRS ? r / 2 : r) * L, g.k + (k0 + r) * n,
                                                  qt, n, f, stats, visible + r, start && r == 0);
      });
    };
    make_weights(k0 == 0);
    Before before = k0 == 0 ? Before::Nothing : Before::Same;
    bool over = false;
    for (int64_t i = 0; i < L; ++i) over |= !(stats.added[i] <= kHeadroom);
    if (over) {  // or not a number: that stays
      for_tiles<R>(keys, [&](int64_t r, auto rows) {
        see_tile<decltype(rows)::value, NV, PAIRS>(g.k + (k0 + r) * n, qt, n, stats.seen,
                                                   visible + r);
      });
      for (int64_t i = 0; i < L; i += V::W) {
        V old = load(stats.max + i), now = vmax(old, load(stats.seen + i) * set1(f)),
          c = vexp((old - now) * set1(kUnit<T>));
        store(stats.max + i, now);
        store(stats.correction + i, c);
        store(stats.sum + i, load(stats.sum + i) * c);
      }
      make_weights(false);
      if (k0 > 0) before = Before::Corrected;
    }
    for (int64_t i = 0; i < L; i += V::W)
      store(stats.sum + i, load(stats.sum + i) + load(stats.added + i));
    const float* v = g.v + (PAIRS ? k0 / 2 : k0) * d;
    for_tiles<R>(d, [&](int64_t r, auto rows) {
      output_tile<decltype(rows)::value, NV, PAIRS>(
          o + r * L, v + r, d, p, PAIRS ? (keys + 1) / 2 : keys, stats.correction, before);
    });
  }
  for (int64_t i = 0; i < g.queries; i += V::W) {
    V total = load(stats.sum + i);
    store_any(g.lse + i, fma(load(stats.max + i), set1(kUnit<T>), vlog(total)), g.queries - i);
    store(stats.correction + i, set1(1.0f) / total);
  }
  rows_of((T*)g.o, g.stride, o, L, g.queries, d, stats.correction, false);
}

template <class T>
static void attend_typed(const AttentionForwardCall& g) {
  switch ((g.queries + V::W - 1) / V::W) {
    case 1:
      return attend<T, 1>(g);
#if SPINDLE_MAX_VECTORS == 4
    case 2:
      return attend<T, 2>(g);
    case 3:
      return attend<T, 3>(g);
#endif
    default:
      return attend<T, SPINDLE_MAX_VECTORS>(g);
  }
}
static void attention_forward(const AttentionForwardCall& g, bool bf16) {
  bf16 ? attend_typed<uint16_t>(g) : attend_typed<float>(g);
}
