// Products over pairs of bfloat16 positions, without tile registers. Included after gemm.inl.

constexpr int kRowsFor[] = SPINDLE_ROWS;
constexpr int kPairsTile = kRowsFor[SPINDLE_MAX_VECTORS];

template <int ROWS, int NV>
static void outer_pairs_tile(const OuterPairsCall& g) {
  V acc[ROWS][NV];
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j)
      acc[r][j] = g.accumulate ? load(g.c + r * g.ldc + j * V::W) : zero();
  const uint16_t* a = g.a;
  const int64_t a_step = g.a_step, step = g.fetch.step;
  const char* fetch = fetched(g.fetch, g.c);
  for (int64_t run = 0; run < g.run_count; ++run) {
    const uint16_t* b = g.runs[run].b;
    for (int64_t i = 0; i < g.runs[run].pairs;
         ++i, a += a_step, b += 2 * NV * V::W, fetch += step) {
      __builtin_prefetch(fetch, 0, 2);
      P bv[NV];
#pragma GCC unroll 4
      for (int j = 0; j < NV; ++j) bv[j] = load_pairs(b + 2 * j * V::W);
#pragma GCC unroll 16
      for (int r = 0; r < ROWS; ++r) {
        uint32_t pair = pair_at(a + 2 * r);
#pragma GCC unroll 4
        for (int j = 0; j < NV; ++j) acc[r][j] = dot_pair(acc[r][j], pair, bv[j]);
      }
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
    for (int j = 0; j < NV; ++j) store(g.c + r * g.ldc + j * V::W, acc[r][j]);
}

static void outer_pairs(const OuterPairsCall& g) { SPINDLE_TILE(outer_pairs_tile) }

// Tiles of [pair][kPairsTile rows][2]: what a tile reads lies together, whatever m is.
static void outer_pairs_pack(uint16_t* out,
                             const uint16_t* dy,
                             int64_t positions,
                             int64_t m,
                             int64_t stride,
                             int64_t pitch) {
  constexpr int64_t kRun = 16 * kPairsTile;  // rows: whole tiles and whole vectors
  uint16_t pairs[2 * kRun];
  for (int64_t p = 0; p < positions; p += 2, out += 2 * kPairsTile, dy += 2 * stride)
    for (int64_t row = 0; row < m; row += kRun) {
      const int64_t rows = m - row < kRun ? m - row : kRun;
      interleave(pairs, dy + row, p + 1 < positions ? dy + stride + row : nullptr, rows, rows);
      for (int64_t r = 0; r < rows; r += kPairsTile) {
        uint16_t* tile = out + (row + r) * pitch;
        if (rows - r >= kPairsTile)
          memcpy(tile, pairs + 2 * r, 4 * kPairsTile);
        else
          memcpy(tile, pairs + 2 * r, size_t(4 * (rows - r)));
      }
    }
}
