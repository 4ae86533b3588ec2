// Tile registers in memory, for tests on processors without them: what Intel's manual says of
// LDTILECFG with 16 rows of 64 bytes, TILEZERO, TILELOADD, TILESTORED and TDPBF16PS.

struct Tiles {
  // What was there before a call is nothing to build on: NaN in either type.
  Tiles() { memset(tiles_, 0xff, sizeof tiles_); }
  template <int T>
  void clear() {
    memset(tiles_[T], 0, sizeof tiles_[T]);
  }
  template <int T>
  void fetch(const void* from, int64_t stride) {
    for (int64_t row = 0; row < 16; ++row)
      memcpy(tiles_[T][row], static_cast<const char*>(from) + row * stride, 64);
  }
  template <int T>
  void put(void* to, int64_t stride) {
    for (int64_t row = 0; row < 16; ++row)
      memcpy(static_cast<char*>(to) + row * stride, tiles_[T][row], 64);
  }
  // The sums of even and of odd products start at zero and are chains of fused multiply-adds; then
  // their sum is added to c.
  template <int C, int A, int B>
  void dot() {
    __atomic_fetch_add(&tile_products, 1, __ATOMIC_RELAXED);
    for (int m = 0; m < 16; ++m) {
      V even = zero(), odd = even;
      for (int k = 0; k < 16; ++k) {
        uint32_t pair;
        memcpy(&pair, tiles_[A][m] + 4 * k, 4);
        V b_even, b_odd;
        columns(b_even, b_odd, tiles_[B][k]);
        even = flushed(fma(flushed(widened(pair << 16)), b_even, even));
        odd = flushed(fma(flushed(widened(pair & 0xffff0000u)), b_odd, odd));
      }
      float* c = reinterpret_cast<float*>(tiles_[C][m]);
      store(c, flushed(flushed(load(c)) + flushed(even + odd)));
    }
  }

 private:
  static V widened(uint32_t bits) {
    float value;
    memcpy(&value, &bits, 4);
    return set1(value);
  }
  // Denormal values count as zeros, whatever the thread's own mode.
  static V flushed(V v) { return select_less(vabs(v), set1(0x1p-126f), v * set1(0.0f), v); }
  static void columns(V& even, V& odd, const char* row) {
    float values[32];
    for (int n = 0; n < 32; ++n) {
      uint16_t half;
      memcpy(&half, row + 2 * n, 2);
      uint32_t bits = uint32_t(half) << 16;
      memcpy(&values[n % 2 * 16 + n / 2], &bits, 4);
    }
    even = flushed(load(values));
    odd = flushed(load(values + 16));
  }
  alignas(64) char tiles_[8][16][64];
};
