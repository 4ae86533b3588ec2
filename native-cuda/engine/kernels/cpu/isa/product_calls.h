// What the inner loops of products are called with: tiles of a product, gradients of weights, rows
// of results.
#pragma once
#include <cstdint>

namespace spindle::cpu {

// Memory that is wanted soon: `from` + i * step, asked for beside the i-th product.
struct Fetch {
  const char* from = nullptr;
  int64_t step = 0;
};

// c[rows][columns] (+)= sum over segments and k of a[segment * rows + row][k] * b. `b` is packed:
// float32: [segment][k][ldb]; bfloat16: [segment][(k + 1) / 2][ldb][2] (pairs along k, an odd tail
// padded with zero).
struct GemmCall {
  const void* const* a;
  int64_t segments;
  int64_t rows;  // 1 .. rows_for[vectors], rows_for_bf16[vectors]
  int64_t k;     // elements per segment
  const void* b;
  int64_t ldb;      // columns in a packed row
  int64_t vectors;  // columns / width, 1 .. panel / width
  float* c;
  int64_t ldc;
  bool accumulate;
  Fetch fetch = {};
};

// A run of `count` positions: c[m][n] += a[position][m] * b[position][n], for gradients of weights.
struct OuterRun {
  const float* a;
  const float* b;
  int64_t count;
};
struct OuterCall {
  const OuterRun* runs;
  int64_t run_count;
  int64_t lda, ldb;  // elements between positions
  int64_t rows;      // of m, 1 .. rows_for[vectors]
  int64_t vectors;   // of n
  float* c;
  int64_t ldc;
  bool accumulate;
  Fetch fetch = {};
};

// The same from bfloat16 positions in pairs: b[pair][vectors * width][2], in runs; a as
// outer_pairs_pack left it.
struct OuterPairsRun {
  const uint16_t* b;
  int64_t pairs;  // whole steps of positions
};
struct OuterPairsCall {
  const uint16_t* a;  // of a row that is a multiple of outer_pairs_tile: the positions of all runs
  int64_t a_step;     // elements between its pairs: 2 * outer_pairs_tile as outer_pairs_pack left
                      // them. Without tile registers, others as well
  const OuterPairsRun* runs;
  int64_t run_count;
  int64_t pitch;  // positions that the packed a has room for
  int64_t rows;   // 1 .. outer_pairs_rows
  int64_t vectors;
  float* c;
  int64_t ldc;
  bool accumulate;
  Fetch fetch = {};
};

// One output row: y = (accumulate ? y : 0) + c + bias + per_image + residual. Null pointers are
// left out.
struct RowCall {
  void* y;
  const float* c;
  const float* bias;
  const void* per_image;
  const void* residual;
  int64_t n;
  bool accumulate;
  bool stream = false;  // past the caches: the output is larger than they are
};

// The rows of whole tiles, `ld` elements apart, finished as a RowCall says. Each tile's inputs lie
// tile_bytes after those of the one before.
struct TileStore {
  void* y;
  int64_t ld;
  const float* bias;
  const void* per_image;  // of all rows
  const void* residual;   // rows as far apart as those of y
  int64_t n;
  bool accumulate, stream;
  int64_t tiles = 1, tile_bytes = 0;
};

}  // namespace spindle::cpu
