// What the inner loops of Winograd's convolutions (winograd.inl) and of convolutions of few
// channels (narrow.inl) are called with.
#pragma once
#include <cstdint>

namespace spindle::cpu {

// Gradients of a transformed filter: [part][slice][n], the sum of all parts.
struct FilterSums {
  const float* from;
  int64_t slice, part;  // elements between them
  int64_t parts;
};

// Neighbouring squares of an image's pixels, `size` apart: pixel (r, c) lies at first + r * row + c
// * pixel (elements) and counts as zeros outside of [top, bottom) x [left, right); `first` itself
// may lie outside of the image.
struct SquareRow {
  const void* first;
  int64_t row, pixel, squares;
  int top, bottom;
  int64_t left, right;
};
// Where neighbouring squares of outputs go, the first `rows` and `columns` of their pixels: n
// channels of each as in RowCall.
struct OutputRow {
  void* y;
  const void* residual;
  int64_t row, pixel;
  int64_t rows, columns;
  const float* bias;
  const void* per_image;
  int64_t n;
  bool accumulate;
};
// c[slice][row][column] = sum over k of a[slice][row][k] * b[slice][k][column]. Rows of a and c are
// readable, and of c written, up to a multiple of rows_for[vectors].
struct SliceProducts {
  const float* a;
  int64_t a_slice, lda;
  const float* b;  // slices follow one another
  int64_t ldb, k;
  float* c;
  int64_t c_slice, ldc;
  int64_t slices, rows, vectors;
};

// A run of outputs of a convolution: y[i][column] = sum over tap rows and k of x[i * pixel + tap
// row * row + k] * b, with b as in GemmCall, plus bias, per_image and residual. x is readable up to
// a multiple of narrow_rows[vectors] outputs; k of bfloat16 is even.
struct NarrowCall {
  const void* x;
  int64_t pixel, row, tap_rows, k;
  const void* b;
  int64_t ldb, vectors;  // 1 or 2
  int64_t count;
  void* y;
  int64_t ldy, n;  // columns to store
  const float* bias;
  const void* per_image;
  const void* residual;
};
// A row of `width` outputs of n <= 8 channels from products of three input rows (null: outside)
// with all nine taps, z[pixel + 1][ldz], columns in the order (tap, channel): y = add + the nine
// neighbours' columns + residual.
struct ShiftedCall {
  const float* z[3];
  int64_t ldz, n, width;
  const float* add;  // 8 of them
  float* sums;       // width * n and 8 more
  void* y;
  const void* residual;
};

}  // namespace spindle::cpu
