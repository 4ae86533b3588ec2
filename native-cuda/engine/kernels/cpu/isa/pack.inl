// Panels of right-hand sides. Included once per instruction set, after the vectors.

// Zeros from n on, also when nothing is left.
template <class T>
static inline V load_up_to(const T* x, int64_t n) {
  return n > 0 ? load_any(x, n) : zero();
}

static void pack_rows(void* out,
                      const float* x,
                      int64_t k_stride,
                      int64_t columns,
                      int64_t k,
                      int64_t width,
                      bool pairs) {
  float* o = static_cast<float*>(out);
  for (int64_t i = 0; i < k; i += pairs ? 2 : 1, o += width) {
    const float* row = x + i * k_stride;
    for (int64_t n = 0; n < width; n += V::W) {
      V even = load_up_to(row + n, columns - n);
      store(o + n,
            pairs ? pair_up(even, i + 1 < k ? load_up_to(row + k_stride + n, columns - n) : zero())
                  : even);
    }
  }
}

static void pack_transposed(void* out,
                            const float* x,
                            int64_t n_stride,
                            int64_t columns,
                            int64_t k,
                            int64_t width,
                            bool pairs) {
  float* o = static_cast<float*>(out);
  const int64_t step = pairs ? 2 * V::W : V::W,
                rows = pairs ? (k + 1) / 2 : k;  // of k in a square of vectors
  for (int64_t i = 0, row = 0; row < rows; i += step, row += V::W)
    for (int64_t n = 0; n < width; n += V::W) {
      V square[V::W];
      for (int j = 0; j < V::W; ++j) {
        if (n + j >= columns) {
          square[j] = zero();
          continue;
        }
        const float* from = x + (n + j) * n_stride + i;
        V low = load_up_to(from, k - i);
        square[j] = pairs ? neighbour_pairs(low, load_up_to(from + V::W, k - i - V::W)) : low;
      }
      transpose(square);
      for (int j = 0; j < V::W && row + j < rows; ++j) store(o + (row + j) * width + n, square[j]);
    }
}
