// Winograd's F(2x2, 3x3): four output pixels of a 3x3 convolution from 16 products instead of 36 (Lavin and Gray, arXiv 1509.09308).
// Y = A^T [(G g G^T) * (B^T d B)] A, element by element over channels. Included once per instruction set.

// B^T along one axis.
static inline void winograd_rows(V& a, V& b, V& c, V& d) {
  V first = a - c, second = b + c, third = c - b, fourth = b - d;
  a = first, b = second, c = third, d = fourth;
}

static void winograd_input(float* out, int64_t stride, const float* const* pixels, int64_t channels) {
  for (int64_t i = 0; i < channels; i += V::W) {
    V d[16];
#pragma GCC unroll 16
    for (int p = 0; p < 16; ++p) d[p] = load_up_to(pixels[p] + i, channels - i);
#pragma GCC unroll 4
    for (int x = 0; x < 4; ++x) winograd_rows(d[x], d[4 + x], d[8 + x], d[12 + x]);
#pragma GCC unroll 4
    for (int y = 0; y < 4; ++y) winograd_rows(d[4 * y], d[4 * y + 1], d[4 * y + 2], d[4 * y + 3]);
#pragma GCC unroll 16
    for (int p = 0; p < 16; ++p) store(out + p * stride + i, d[p]);
  }
}

// The adjoint of winograd_output: A dY A^T.
static inline void winograd_spread(V a, V b, V* out, int step) {
  out[0] = a;
  out[step] = a + b;
  out[2 * step] = a - b;
  out[3 * step] = zero() - b;
}

static void winograd_gradient(float* out, int64_t stride, const float* const* pixels, int64_t channels) {
  for (int64_t i = 0; i < channels; i += V::W) {
    V t[8], d[16];
#pragma GCC unroll 2
    for (int x = 0; x < 2; ++x) winograd_spread(load_up_to(pixels[x] + i, channels - i), load_up_to(pixels[2 + x] + i, channels - i), t + x, 2);
#pragma GCC unroll 4
    for (int y = 0; y < 4; ++y) winograd_spread(t[2 * y], t[2 * y + 1], d + 4 * y, 1);
#pragma GCC unroll 16
    for (int p = 0; p < 16; ++p) store(out + p * stride + i, d[p]);
  }
}

// The adjoint of winograd_filter: G^T dU G of one output channel, n input channels.
static void winograd_filter_gradient(float* dw, const float* du, int64_t stride, int64_t n, bool accumulate) {
  const V half = set1(0.5f);
  for (int64_t i = 0; i < n; i += V::W) {
    V u[16], t[12];
#pragma GCC unroll 16
    for (int p = 0; p < 16; ++p) u[p] = load(du + p * stride + i);
#pragma GCC unroll 4
    for (int x = 0; x < 4; ++x) {
      V sum = (u[4 + x] + u[8 + x]) * half, difference = (u[4 + x] - u[8 + x]) * half;
      t[x] = u[x] + sum;
      t[4 + x] = difference;
      t[8 + x] = u[12 + x] + sum;
    }
#pragma GCC unroll 3
    for (int y = 0; y < 3; ++y) {
      V sum = (t[4 * y + 1] + t[4 * y + 2]) * half, difference = (t[4 * y + 1] - t[4 * y + 2]) * half;
      V g[3] = {t[4 * y] + sum, difference, t[4 * y + 3] + sum};
#pragma GCC unroll 3
      for (int x = 0; x < 3; ++x) {
        float* to = dw + (3 * y + x) * n + i;
        if (n - i >= V::W) store(to, accumulate ? load(to) + g[x] : g[x]);
        else store_n(to, accumulate ? load_n(to, n - i) + g[x] : g[x], n - i);
      }
    }
  }
}

static void winograd_filter(float* out, const float* taps, int64_t n, bool reversed) {
  const V half = set1(0.5f);
  for (int64_t i = 0; i < n; i += V::W) {
    V g[9], t[12];
#pragma GCC unroll 9
    for (int p = 0; p < 9; ++p) g[p] = load(taps + (reversed ? 8 - p : p) * n + i);
#pragma GCC unroll 3
    for (int x = 0; x < 3; ++x) {
      V outer = (g[x] + g[6 + x]) * half, middle = g[3 + x] * half;
      t[x] = g[x];
      t[3 + x] = outer + middle;
      t[6 + x] = outer - middle;
      t[9 + x] = g[6 + x];
    }
#pragma GCC unroll 4
    for (int y = 0; y < 4; ++y) {
      V outer = (t[3 * y] + t[3 * y + 2]) * half, middle = t[3 * y + 1] * half;
      store(out + (4 * y) * n + i, t[3 * y]);
      store(out + (4 * y + 1) * n + i, outer + middle);
      store(out + (4 * y + 2) * n + i, outer - middle);
      store(out + (4 * y + 3) * n + i, t[3 * y + 2]);
    }
  }
}

static void winograd_output(float* out, const float* products, int64_t stride, int64_t n) {
  for (int64_t i = 0; i < n; i += V::W) {
    V m[16], t[8];
#pragma GCC unroll 16
    for (int p = 0; p < 16; ++p) m[p] = load(products + p * stride + i);
#pragma GCC unroll 4
    for (int x = 0; x < 4; ++x) {
      t[x] = m[x] + m[4 + x] + m[8 + x];
      t[4 + x] = m[4 + x] - m[8 + x] - m[12 + x];
    }
#pragma GCC unroll 2
    for (int y = 0; y < 2; ++y) {
      store(out + (2 * y) * n + i, t[4 * y] + t[4 * y + 1] + t[4 * y + 2]);
      store(out + (2 * y + 1) * n + i, t[4 * y + 1] - t[4 * y + 2] - t[4 * y + 3]);
    }
  }
}
