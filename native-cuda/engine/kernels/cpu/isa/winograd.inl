// Winograd's F(m x m, 3x3): m * m output pixels of a 3x3 convolution from (m + 2)^2 products (Lavin
// and Gray, arXiv 1509.09308). Y = A^T [(G g G^T) * (B^T d B)] A, element by element over channels;
// gradients go through the adjoints. Arithmetic is float32 whatever the tensors are. Included once
// per instruction set.

// The matrices along one axis. Inputs are `from` apart, outputs `to`.
struct Winograd2 {
  static constexpr int M = 2, N = 4;
  static void input(const V* d, int from, V* t, int to) {
    t[0] = d[0] - d[2 * from];
    t[to] = d[from] + d[2 * from];
    t[2 * to] = d[2 * from] - d[from];
    t[3 * to] = d[from] - d[3 * from];
  }
  static void filter(const V* g, int from, V* t, int to) {
    V outer = (g[0] + g[2 * from]) * set1(0.5f), middle = g[from] * set1(0.5f);
    t[0] = g[0];
    t[to] = outer + middle;
    t[2 * to] = outer - middle;
    t[3 * to] = g[2 * from];
  }
  static void output(const V* m, int from, V* y, int to) {
    y[0] = m[0] + m[from] + m[2 * from];
    y[to] = m[from] - m[2 * from] - m[3 * from];
  }
  static void gradient(const V* y, int from, V* t, int to) {  // A
    t[0] = y[0];
    t[to] = y[0] + y[from];
    t[2 * to] = y[0] - y[from];
    t[3 * to] = zero() - y[from];
  }
  static void filter_gradient(const V* u, int from, V* g, int to) {  // G^T
    V sum = (u[from] + u[2 * from]) * set1(0.5f);
    g[0] = u[0] + sum;
    g[to] = (u[from] - u[2 * from]) * set1(0.5f);
    g[2 * to] = u[3 * from] + sum;
  }
};

// Points 0, 1, -1, 2, -2 and infinity.
struct Winograd4 {
  static constexpr int M = 4, N = 6;
  static void input(const V* d, int from, V* t, int to) {
    const V two = set1(2), four = set1(4), five = set1(5);
    V d0 = d[0], d1 = d[from], d2 = d[2 * from], d3 = d[3 * from], d4 = d[4 * from],
      d5 = d[5 * from];
    V a = d4 - four * d2, b = d3 - four * d1, c = d4 - d2, e = two * (d3 - d1);
    t[0] = four * d0 - five * d2 + d4;
    t[to] = a + b;
    t[2 * to] = a - b;
    t[3 * to] = c + e;
    t[4 * to] = c - e;
    t[5 * to] = four * d1 - five * d3 + d5;
  }
  static void filter(const V* g, int from, V* t, int to) {
    V g0 = g[0], g1 = g[from], g2 = g[2 * from];
    V a = (g0 + g2) * set1(-1.0f / 6), b = g1 * set1(-1.0f / 6),
      c = g0 * set1(1.0f / 24) + g2 * set1(1.0f / 6), e = g1 * set1(1.0f / 12);
    t[0] = g0 * set1(0.25f);
    t[to] = a + b;
    t[2 * to] = a - b;
    t[3 * to] = c + e;
    t[4 * to] = c - e;
    t[5 * to] = g2;
  }
  static void output(const V* m, int from, V* y, int to) {
    V a = m[from] + m[2 * from], b = m[from] - m[2 * from], c = m[3 * from] + m[4 * from],
      e = m[3 * from] - m[4 * from];
    y[0] = m[0] + a + c;
    y[to] = b + set1(2) * e;
    y[2 * to] = a + set1(4) * c;
    y[3 * to] = b + set1(8) * e + m[5 * from];
  }
  static void gradient(const V* y, int from, V* t, int to) {
    V y0 = y[0], y1 = y[from], y2 = y[2 * from], y3 = y[3 * from];
    V even = y0 + y2, odd = y1 + y3, far_even = y0 + set1(4) * y2,
      far_odd = set1(2) * y1 + set1(8) * y3;
    t[0] = y0;
    t[to] = even + odd;
    t[2 * to] = even - odd;
    t[3 * to] = far_even + far_odd;
    t[4 * to] = far_even - far_odd;
    t[5 * to] = y3;
  }
  static void filter_gradient(const V* u, int from, V* g, int to) {
    V near = (u[from] + u[2 * from]) * set1(-1.0f / 6), far = u[3 * from] + u[4 * from];
    g[0] = u[0] * set1(0.25f) + near + far * set1(1.0f / 24);
    g[to] =
        (u[from] - u[2 * from]) * set1(-1.0f / 6) + (u[3 * from] - u[4 * from]) * set1(1.0f / 12);
    g[2 * to] = near + far * set1(1.0f / 6) + u[5 * from];
  }
};

// A column of squares, from the first row on; zeros outside of the image.
template <int COUNT, class T>
static inline void load_column(V* d,
                               const SquareRow& q,
                               const T* x,
                               int64_t column,
                               bool whole,
                               int64_t n) {
  const T* from = x + column * q.pixel;
  if (whole && n >= V::W) {
#pragma GCC unroll 6
    for (int r = 0; r < COUNT; ++r) d[r] = load(from + r * q.row);
  } else {
    for (int r = 0; r < COUNT; ++r)
      d[r] = r >= q.top && r < q.bottom && column >= q.left && column < q.right
                 ? load_up_to(from + r * q.row, n)
                 : zero();
  }
}
template <int SIDE>
static inline bool whole_square(const SquareRow& q, int64_t column) {
  return q.top == 0 && q.bottom == SIDE && column >= q.left && column + SIDE <= q.right;
}

template <class S, class T>
static void winograd_input_typed(float* out,
                                 int64_t stride,
                                 int64_t ld,
                                 const SquareRow& q,
                                 int64_t channels) {
  constexpr int M = S::M, N = S::N;
  for (int64_t square = 0; square < q.squares; ++square, out += ld) {
    const bool whole = whole_square<N>(q, square * M);
    for (int64_t i = 0; i < channels; i += V::W) {
      V t[N * N];
#pragma GCC unroll 6
      for (int c = 0; c < N; ++c) {
        V d[N];
        load_column<N>(d, q, static_cast<const T*>(q.first) + i, square * M + c, whole,
                       channels - i);
        S::input(d, 1, t + c, N);
      }
#pragma GCC unroll 6
      for (int y = 0; y < N; ++y) {
        V u[N];
        S::input(t + N * y, 1, u, 1);
#pragma GCC unroll 6
        for (int c = 0; c < N; ++c) store(out + (N * y + c) * stride + i, u[c]);
      }
    }
  }
}

template <class S, class T>
static void winograd_gradient_typed(float* out,
                                    int64_t stride,
                                    int64_t ld,
                                    const SquareRow& q,
                                    int64_t channels) {
  constexpr int M = S::M, N = S::N;
  for (int64_t square = 0; square < q.squares; ++square, out += ld) {
    const bool whole = whole_square<M>(q, square * M);
    for (int64_t i = 0; i < channels; i += V::W) {
      V t[N * M], u[N];
#pragma GCC unroll 4
      for (int c = 0; c < M; ++c) {
        V d[M];
        load_column<M>(d, q, static_cast<const T*>(q.first) + i, square * M + c, whole,
                       channels - i);
        S::gradient(d, 1, t + c, M);
      }
#pragma GCC unroll 6
      for (int y = 0; y < N; ++y) {
        S::gradient(t + M * y, 1, u, 1);
#pragma GCC unroll 6
        for (int c = 0; c < N; ++c) store(out + (N * y + c) * stride + i, u[c]);
      }
    }
  }
}

template <class S>
static void winograd_filter_square(float* out, int64_t stride, const V* g) {
  constexpr int N = S::N;
  V t[N * 3], u[N];
#pragma GCC unroll 3
  for (int x = 0; x < 3; ++x) S::filter(g + x, 3, t + x, 3);
#pragma GCC unroll 6
  for (int y = 0; y < N; ++y) {
    S::filter(t + 3 * y, 1, u, 1);
#pragma GCC unroll 6
    for (int x = 0; x < N; ++x) store(out + (N * y + x) * stride, u[x]);
  }
}

template <class S>
static void winograd_filter_of(float* out,
                               const void* taps,
                               int64_t k,
                               int64_t width,
                               bool reversed,
                               bool pairs) {
  const float* from = static_cast<const float*>(taps);
  const int64_t rows = pairs ? (k + 1) / 2 : k, stride = k * width;
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t n = 0; n < width; n += V::W) {
      V g[9], odd[9];
#pragma GCC unroll 9
      for (int p = 0; p < 9; ++p) {
        const float* at = from + ((reversed ? 8 - p : p) * rows + row) * width + n;
        if (pairs)
          split_pairs(at, g[p], odd[p]);
        else
          g[p] = load(at);
      }
      winograd_filter_square<S>(out + (pairs ? 2 * row : row) * width + n, stride, g);
      if (pairs && 2 * row + 1 < k)
        winograd_filter_square<S>(out + (2 * row + 1) * width + n, stride, odd);
    }
}

// Products of every slice, kChain values of k at a time: rows of tiles against columns of the
// filter.
template <int ROWS, int NV>
static void slice_tile(const float* a,
                       int64_t lda,
                       const float* b,
                       int64_t ldb,
                       int64_t k,
                       float* c,
                       int64_t ldc) {
  for (int64_t i0 = 0; i0 < k; i0 += kChain) {
    const int64_t steps = k - i0 < kChain ? k - i0 : kChain;
    V acc[ROWS][NV];
#pragma GCC unroll 12
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
      for (int j = 0; j < NV; ++j) acc[r][j] = zero();
    const float* row[ROWS];
#pragma GCC unroll 12
    for (int r = 0; r < ROWS; ++r) row[r] = a + r * lda + i0;
    for (int64_t i = 0; i < steps; ++i, b += ldb) {
      V bv[NV];
#pragma GCC unroll 4
      for (int j = 0; j < NV; ++j) bv[j] = load(b + j * V::W);
#pragma GCC unroll 12
      for (int r = 0; r < ROWS; ++r) {
        V av = set1(row[r][i]);
#pragma GCC unroll 4
        for (int j = 0; j < NV; ++j) acc[r][j] = fma(av, bv[j], acc[r][j]);
      }
    }
#pragma GCC unroll 12
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
      for (int j = 0; j < NV; ++j) {
        float* to = c + r * ldc + j * V::W;
        store(to, i0 ? load(to) + acc[r][j] : acc[r][j]);
      }
  }
}
template <int ROWS, int NV>
static void slice_products(const SliceProducts& p) {
  for (int64_t slice = 0; slice < p.slices; ++slice) {
    const float *a = p.a + slice * p.a_slice, *b = p.b + slice * p.k * p.ldb;
    float* c = p.c + slice * p.c_slice;
    for (int64_t row = 0; row < p.rows; row += ROWS) {
      if (p.rows - row > ROWS / 2)
        slice_tile<ROWS, NV>(a + row * p.lda, p.lda, b, p.ldb, p.k, c + row * p.ldc, p.ldc);
      else
        slice_tile<ROWS / 2, NV>(a + row * p.lda, p.lda, b, p.ldb, p.k, c + row * p.ldc, p.ldc);
    }
  }
}
static void winograd_products(const SliceProducts& p) {
  switch (p.vectors) {
    case 1:
      return slice_products<kRowsFor[1], 1>(p);
    case 2:
      return slice_products<kRowsFor[2], 2>(p);
#if SPINDLE_MAX_VECTORS == 4
    case 3:
      return slice_products<kRowsFor[3], 3>(p);
    case 4:
      return slice_products<kRowsFor[4], 4>(p);
#endif
  }
}

template <class S, class T>
static void winograd_output_of(const float* products,
                               int64_t stride,
                               int64_t ld,
                               const OutputRow& q) {
  constexpr int M = S::M, N = S::N;
  const T *per_image = static_cast<const T*>(q.per_image),
          *residual = static_cast<const T*>(q.residual);
  for (int64_t square = 0; square * M < q.columns; ++square)
    for (int64_t i = 0; i < q.n; i += V::W) {
      const int64_t n = q.n - i;
      V add = q.bias ? load_any(q.bias + i, n) : zero();
      if (per_image) add = add + load_any(per_image + i, n);
      const float* from = products + square * ld + i;
      V t[M * N];
#pragma GCC unroll 6
      for (int x = 0; x < N; ++x) {
        V m[N];
#pragma GCC unroll 6
        for (int p = 0; p < N; ++p) m[p] = load(from + (N * p + x) * stride);
        S::output(m, 1, t + x, N);
      }
      const int64_t columns = q.columns - square * M;
#pragma GCC unroll 4
      for (int row = 0; row < M; ++row) {
        V y[M];
        S::output(t + N * row, 1, y, 1);
        if (row >= q.rows) break;
        const int64_t at = row * q.row + square * M * q.pixel + i;
        T* to = static_cast<T*>(q.y) + at;
        if (columns >= M && n >= V::W && !q.accumulate) {
#pragma GCC unroll 4
          for (int x = 0; x < M; ++x) {
            V v = y[x] + add;
            if (residual) v = v + load(residual + at + x * q.pixel);
            store(to + x * q.pixel, v);
          }
          continue;
        }
        for (int x = 0; x < M && x < columns; ++x) {
          V v = y[x] + add;
          if (residual) v = v + load_any(residual + at + x * q.pixel, n);
          if (q.accumulate) v = load_any(to + x * q.pixel, n) + v;
          store_any(to + x * q.pixel, v, n);
        }
      }
    }
}

template <class S>
static void winograd_filter_gradient_of(float* dw,
                                        int64_t ld,
                                        const FilterSums& sums,
                                        int64_t n,
                                        bool accumulate) {
  constexpr int N = S::N;
  for (int64_t i = 0; i < n; i += V::W) {
    V t[3 * N], g[3];
#pragma GCC unroll 6
    for (int x = 0; x < N; ++x) {
      V u[N];
#pragma GCC unroll 6
      for (int p = 0; p < N; ++p) {
        const float* from = sums.from + (N * p + x) * sums.slice + i;
        u[p] = load(from);
        for (int64_t part = 1; part < sums.parts; ++part)
          u[p] = u[p] + load(from + part * sums.part);
      }
      S::filter_gradient(u, 1, t + x, N);
    }
#pragma GCC unroll 3
    for (int y = 0; y < 3; ++y) {
      S::filter_gradient(t + N * y, 1, g, 1);
#pragma GCC unroll 3
      for (int x = 0; x < 3; ++x) {
        float* to = dw + (3 * y + x) * ld + i;
        store_any(to, accumulate ? load_any(to, n - i) + g[x] : g[x], n - i);
      }
    }
  }
}

// Run-time choice of size and type.
#define SPINDLE_WINOGRAD(KERNEL, ...)                                                           \
  size == 2                                                                                     \
      ? bf16 ? KERNEL<Winograd2, uint16_t>(__VA_ARGS__) : KERNEL<Winograd2, float>(__VA_ARGS__) \
  : bf16 ? KERNEL<Winograd4, uint16_t>(__VA_ARGS__)                                             \
         : KERNEL<Winograd4, float>(__VA_ARGS__)
static void winograd_input(float* out,
                           int64_t stride,
                           int64_t ld,
                           const SquareRow& q,
                           int64_t channels,
                           int size,
                           bool bf16) {
  SPINDLE_WINOGRAD(winograd_input_typed, out, stride, ld, q, channels);
}
static void winograd_gradient(float* out,
                              int64_t stride,
                              int64_t ld,
                              const SquareRow& q,
                              int64_t channels,
                              int size,
                              bool bf16) {
  SPINDLE_WINOGRAD(winograd_gradient_typed, out, stride, ld, q, channels);
}
static void winograd_output(const float* products,
                            int64_t stride,
                            int64_t ld,
                            const OutputRow& q,
                            int size,
                            bool bf16) {
  SPINDLE_WINOGRAD(winograd_output_of, products, stride, ld, q);
}
#undef SPINDLE_WINOGRAD
static void winograd_filter(float* out,
                            const void* taps,
                            int64_t k,
                            int64_t width,
                            int size,
                            bool reversed,
                            bool pairs) {
  size == 2 ? winograd_filter_of<Winograd2>(out, taps, k, width, reversed, pairs)
            : winograd_filter_of<Winograd4>(out, taps, k, width, reversed, pairs);
}
static void winograd_filter_gradient(float* dw,
                                     int64_t ld,
                                     const FilterSums& sums,
                                     int64_t n,
                                     int size,
                                     bool accumulate) {
  size == 2 ? winograd_filter_gradient_of<Winograd2>(dw, ld, sums, n, accumulate)
            : winograd_filter_gradient_of<Winograd4>(dw, ld, sums, n, accumulate);
}
