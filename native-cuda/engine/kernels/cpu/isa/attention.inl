// Attention pieces: softmax of blocks of scores, its gradient, transposes. Included once per
// instruction set.

// The first n lanes of v, `fill` in the others.
static inline V first_lanes(V v, int64_t n, float fill) {
  float lanes[V::W];
  store(lanes, v);
  for (int64_t j = n; j < V::W; ++j) lanes[j] = fill;
  return load(lanes);
}

template <class T>
static void softmax_block_typed(T* p,
                                const float* s,
                                int64_t rows,
                                int64_t keys,
                                int64_t ld,
                                float scale,
                                float* max,
                                float* total,
                                float* correction,
                                const int64_t* valid) {
  const V f = set1(scale);
  for (int64_t r = 0; r < rows; ++r, s += ld, p += ld) {
    int64_t n = valid[r] < keys ? valid[r] : keys, full = n / V::W * V::W;
    if (n <= 0) {  // nothing of this block is visible to the row
      memset(p, 0, size_t(ld) * sizeof(T));
      correction[r] = 1;
      continue;
    }
    V m0 = set1(-__builtin_inff()), m1 = m0;
    int64_t i = 0;
    for (; i + 2 * V::W <= full; i += 2 * V::W) {
      m0 = vmax(m0, load(s + i) * f);
      m1 = vmax(m1, load(s + i + V::W) * f);
    }
    if (i < full) m0 = vmax(m0, load(s + i) * f);
    if (full < n)
      m1 = vmax(m1, first_lanes(load_n(s + full, n - full) * f, n - full, -__builtin_inff()));
    float row_max = maximum(vmax(m0, m1)), new_max = row_max > max[r] ? row_max : max[r];
    V nm = set1(-new_max), acc = zero();
    for (i = 0; i < full; i += V::W) {
      V e = exp_for(fma(load(s + i), f, nm), p);
      store(p + i, e);
      acc = acc + e;
    }
    if (full < n) {
      V e = first_lanes(exp_for(fma(load_n(s + full, n - full), f, nm), p), n - full, 0);
      store_n(p + full, e, n - full);
      acc = acc + e;
    }
    memset(p + n, 0, size_t(ld - n) * sizeof(T));
    float c = max[r] == new_max             ? 1.0f
              : max[r] == -__builtin_inff() ? 0.0f
                                            : expf(max[r] - new_max);
    correction[r] = c;
    total[r] = total[r] * c + sum(acc);
    max[r] = new_max;
  }
}
static void softmax_block(void* p,
                          const float* s,
                          int64_t rows,
                          int64_t keys,
                          int64_t ld,
                          float scale,
                          float* max,
                          float* total,
                          float* correction,
                          const int64_t* valid,
                          bool bf16) {
  bf16 ? softmax_block_typed((uint16_t*)p, s, rows, keys, ld, scale, max, total, correction, valid)
       : softmax_block_typed((float*)p, s, rows, keys, ld, scale, max, total, correction, valid);
}

template <class T>
static void softmax_gradient_typed(T* p,
                                   T* ds,
                                   const float* s,
                                   const float* dp,
                                   int64_t rows,
                                   int64_t columns,
                                   int64_t ld,
                                   float scale,
                                   const float* lse,
                                   const float* delta,
                                   int64_t first) {
  const V f = set1(scale);
  for (int64_t r = 0; r < rows; ++r, s += ld, dp += ld, p += ld, ds += ld) {
    int64_t hidden = first + r < 0 ? 0 : first + r < columns ? first + r : columns;
    for (int64_t i = hidden / V::W * V::W; i < columns; i += V::W) {
      V e = exp_for(fma(load(s + i), f, zero() - load(lse + i)), p);
      V g = e * ((load(dp + i) - load(delta + i)) * f);
      store(p + i, e);
      store(ds + i, g);
    }
    memset(p, 0, size_t(hidden) * sizeof(T));
    memset(ds, 0, size_t(hidden) * sizeof(T));
  }
}
static void softmax_gradient(void* p,
                             void* ds,
                             const float* s,
                             const float* dp,
                             int64_t rows,
                             int64_t columns,
                             int64_t ld,
                             float scale,
                             const float* lse,
                             const float* delta,
                             int64_t first,
                             bool bf16) {
  bf16 ? softmax_gradient_typed((uint16_t*)p, (uint16_t*)ds, s, dp, rows, columns, ld, scale, lse,
                                delta, first)
       : softmax_gradient_typed((float*)p, (float*)ds, s, dp, rows, columns, ld, scale, lse, delta,
                                first);
}

static void transpose_pairs(uint32_t* out,
                            int64_t ldo,
                            const uint16_t* in,
                            int64_t ldi,
                            int64_t rows,
                            int64_t halves,
                            int64_t padded) {
  for (int64_t r = 0; r < padded; r += V::W)
    for (int64_t h = 0; h < halves; h += 2 * V::W)
      transpose_tile(out + h / 2 * ldo + r, ldo, in + r * ldi + h, ldi, rows - r, halves - h);
}
static void transpose_bf16(uint16_t* out,
                           int64_t ldo,
                           const uint16_t* in,
                           int64_t ldi,
                           int64_t rows,
                           int64_t columns) {
  uint16_t pairs[V::W * 2 * V::W];
  for (int64_t c = 0; c < columns; c += V::W)
    for (int64_t r = 0; r < rows; r += 2 * V::W) {
      int64_t left = rows - r;
      for (int64_t i = 0; i < V::W && 2 * i < left; ++i) {
        const uint16_t* even = in + (r + 2 * i) * ldi + c;
        store_interleaved(pairs + 2 * V::W * i, even, 2 * i + 1 < left ? even + ldi : nullptr);
      }
      transpose_tile((uint32_t*)(out + c * ldo + r), ldo / 2, pairs, 2 * V::W, (left + 1) / 2,
                     2 * (columns - c));
    }
}
