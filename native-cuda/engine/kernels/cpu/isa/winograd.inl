// Winograd's F(m x m, 3x3): m * m output pixels of a 3x3 convolution from (m + 2)^2 products (Lavin and Gray, arXiv 1509.09308).
// Y = A^T [(G g G^T) * (B^T d B)] A, element by element over channels; gradients go through the adjoints. Arithmetic is float32
// whatever the tensors are. Included once per instruction set.

// The matrices along one axis. `in` and `out` are `step` apart.
struct Winograd2 {
  static constexpr int M = 2, N = 4;
  static void input(const V* d, V* t, int step) {
    t[0] = d[0] - d[2 * step];
    t[step] = d[step] + d[2 * step];
    t[2 * step] = d[2 * step] - d[step];
    t[3 * step] = d[step] - d[3 * step];
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
  static void input(const V* d, V* t, int step) {
    const V two = set1(2), four = set1(4), five = set1(5);
    V d0 = d[0], d1 = d[step], d2 = d[2 * step], d3 = d[3 * step], d4 = d[4 * step], d5 = d[5 * step];
    V a = d4 - four * d2, b = d3 - four * d1, c = d4 - d2, e = two * (d3 - d1);
    t[0] = four * d0 - five * d2 + d4;
    t[step] = a + b;
    t[2 * step] = a - b;
    t[3 * step] = c + e;
    t[4 * step] = c - e;
    t[5 * step] = four * d1 - five * d3 + d5;
  }
  static void filter(const V* g, int from, V* t, int to) {
    V g0 = g[0], g1 = g[from], g2 = g[2 * from];
    V a = (g0 + g2) * set1(-1.0f / 6), b = g1 * set1(-1.0f / 6), c = g0 * set1(1.0f / 24) + g2 * set1(1.0f / 6), e = g1 * set1(1.0f / 12);
    t[0] = g0 * set1(0.25f);
    t[to] = a + b;
    t[2 * to] = a - b;
    t[3 * to] = c + e;
    t[4 * to] = c - e;
    t[5 * to] = g2;
  }
  static void output(const V* m, int from, V* y, int to) {
    V a = m[from] + m[2 * from], b = m[from] - m[2 * from], c = m[3 * from] + m[4 * from], e = m[3 * from] - m[4 * from];
    y[0] = m[0] + a + c;
    y[to] = b + set1(2) * e;
    y[2 * to] = a + set1(4) * c;
    y[3 * to] = b + set1(8) * e + m[5 * from];
  }
  static void gradient(const V* y, int from, V* t, int to) {
    V y0 = y[0], y1 = y[from], y2 = y[2 * from], y3 = y[3 * from];
    V even = y0 + y2, odd = y1 + y3, far_even = y0 + set1(4) * y2, far_odd = set1(2) * y1 + set1(8) * y3;
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
    g[to] = (u[from] - u[2 * from]) * set1(-1.0f / 6) + (u[3 * from] - u[4 * from]) * set1(1.0f / 12);
    g[2 * to] = near + far * set1(1.0f / 6) + u[5 * from];
  }
};

template <class S, class T>
static void winograd_input_typed(float* out, int64_t stride, const void* const* pixels, int64_t channels) {
  constexpr int N = S::N;
  for (int64_t i = 0; i < channels; i += V::W) {
    V d[N * N], t[N * N];
    for (int p = 0; p < N * N; ++p) d[p] = load_up_to(static_cast<const T*>(pixels[p]) + i, channels - i);
#pragma GCC unroll 6
    for (int x = 0; x < N; ++x) S::input(d + x, t + x, N);
#pragma GCC unroll 6
    for (int y = 0; y < N; ++y) S::input(t + N * y, d + N * y, 1);
    for (int p = 0; p < N * N; ++p) store(out + p * stride + i, d[p]);
  }
}

template <class S, class T>
static void winograd_gradient_typed(float* out, int64_t stride, const void* const* pixels, int64_t channels) {
  constexpr int M = S::M, N = S::N;
  for (int64_t i = 0; i < channels; i += V::W) {
    V d[M * M], t[N * M], u[N];
    for (int p = 0; p < M * M; ++p) d[p] = load_up_to(static_cast<const T*>(pixels[p]) + i, channels - i);
#pragma GCC unroll 4
    for (int x = 0; x < M; ++x) S::gradient(d + x, M, t + x, M);
#pragma GCC unroll 6
    for (int y = 0; y < N; ++y) {
      S::gradient(t + M * y, 1, u, 1);
#pragma GCC unroll 6
      for (int x = 0; x < N; ++x) store(out + (N * y + x) * stride + i, u[x]);
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
static void winograd_filter_of(float* out, const void* taps, int64_t k, int64_t width, bool reversed, bool pairs) {
  const float* from = static_cast<const float*>(taps);
  const int64_t rows = pairs ? (k + 1) / 2 : k, stride = k * width;
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t n = 0; n < width; n += V::W) {
      V g[9], odd[9];
#pragma GCC unroll 9
      for (int p = 0; p < 9; ++p) {
        const float* at = from + ((reversed ? 8 - p : p) * rows + row) * width + n;
        if (pairs) split_pairs(at, g[p], odd[p]);
        else g[p] = load(at);
      }
      winograd_filter_square<S>(out + (pairs ? 2 * row : row) * width + n, stride, g);
      if (pairs && 2 * row + 1 < k) winograd_filter_square<S>(out + (2 * row + 1) * width + n, stride, odd);
    }
}

template <class S>
static void winograd_output_of(float* out, const float* products, int64_t stride, int64_t n) {
  constexpr int M = S::M, N = S::N;
  for (int64_t i = 0; i < n; i += V::W) {
    V t[M * N], y[M];
#pragma GCC unroll 6
    for (int x = 0; x < N; ++x) {
      V m[N];
#pragma GCC unroll 6
      for (int p = 0; p < N; ++p) m[p] = load(products + (N * p + x) * stride + i);
      S::output(m, 1, t + x, N);
    }
#pragma GCC unroll 4
    for (int row = 0; row < M; ++row) {
      S::output(t + N * row, 1, y, 1);
#pragma GCC unroll 4
      for (int x = 0; x < M; ++x) store(out + (M * row + x) * n + i, y[x]);
    }
  }
}

template <class S>
static void winograd_filter_gradient_of(float* dw, const float* du, int64_t stride, int64_t n, bool accumulate) {
  constexpr int N = S::N;
  for (int64_t i = 0; i < n; i += V::W) {
    V t[3 * N], g[3];
#pragma GCC unroll 6
    for (int x = 0; x < N; ++x) {
      V u[N];
#pragma GCC unroll 6
      for (int p = 0; p < N; ++p) u[p] = load(du + (N * p + x) * stride + i);
      S::filter_gradient(u, 1, t + x, N);
    }
#pragma GCC unroll 3
    for (int y = 0; y < 3; ++y) {
      S::filter_gradient(t + N * y, 1, g, 1);
#pragma GCC unroll 3
      for (int x = 0; x < 3; ++x) {
        float* to = dw + (3 * y + x) * n + i;
        store_any(to, accumulate ? load_any(to, n - i) + g[x] : g[x], n - i);
      }
    }
  }
}

// Run-time choice of size and type.
static void winograd_input(float* out, int64_t stride, const void* const* pixels, int64_t channels, int size, bool bf16) {
  if (size == 2) bf16 ? winograd_input_typed<Winograd2, uint16_t>(out, stride, pixels, channels) : winograd_input_typed<Winograd2, float>(out, stride, pixels, channels);
  else bf16 ? winograd_input_typed<Winograd4, uint16_t>(out, stride, pixels, channels) : winograd_input_typed<Winograd4, float>(out, stride, pixels, channels);
}
static void winograd_gradient(float* out, int64_t stride, const void* const* pixels, int64_t channels, int size, bool bf16) {
  if (size == 2) bf16 ? winograd_gradient_typed<Winograd2, uint16_t>(out, stride, pixels, channels) : winograd_gradient_typed<Winograd2, float>(out, stride, pixels, channels);
  else bf16 ? winograd_gradient_typed<Winograd4, uint16_t>(out, stride, pixels, channels) : winograd_gradient_typed<Winograd4, float>(out, stride, pixels, channels);
}
static void winograd_filter(float* out, const void* taps, int64_t k, int64_t width, int size, bool reversed, bool pairs) {
  size == 2 ? winograd_filter_of<Winograd2>(out, taps, k, width, reversed, pairs) : winograd_filter_of<Winograd4>(out, taps, k, width, reversed, pairs);
}
static void winograd_output(float* out, const float* products, int64_t stride, int64_t n, int size) {
  size == 2 ? winograd_output_of<Winograd2>(out, products, stride, n) : winograd_output_of<Winograd4>(out, products, stride, n);
}
static void winograd_filter_gradient(float* dw, const float* du, int64_t stride, int64_t n, int size, bool accumulate) {
  size == 2 ? winograd_filter_gradient_of<Winograd2>(dw, du, stride, n, accumulate) : winograd_filter_gradient_of<Winograd4>(dw, du, stride, n, accumulate);
}
