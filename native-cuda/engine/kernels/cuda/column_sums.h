// Sums down the columns of (segments, rows, columns): gradients of biases and norms, statistics of
// group norms. Rows are cut into chunks by the shape alone, every chunk is summed by one block in a
// fixed order, and chunks are added in their order: no atomics, the same bytes every time.
#pragma once
#include "kernels/cuda/map.h"

namespace spindle::cuda {

constexpr int kColumns = 32, kRowLanes = 8;  // of a block: 32 columns wide, 8 rows deep

struct Chunks {
  int64_t rows, count;  // of a chunk; chunks per segment
  explicit Chunks(int64_t all_rows) {
    constexpr int64_t kSmallest = 128, kMost = 64;
    rows = std::max(kSmallest, (all_rows + kMost - 1) / kMost);
    count = std::max<int64_t>(1, (all_rows + rows - 1) / rows);
  }
};

template <int N>
struct Sums {
  float of[N];
};

// Terms: `auto at = terms.column(segment, column)`, then `terms.add(sums, at, row)` for rows of the
// segment.
//
// Block (x, y, z) owns 32 columns of chunk y of segment z. Threads 0 to 31 of a row lane stand on
// neighbouring columns, so that they read neighbours; the 8 row lanes walk down the chunk in steps
// of 8 rows. Then lane 0 adds the other lanes' sums, from the first to the last.
template <int N, class Terms>
__global__ void column_sums_kernel(Terms terms,
                                   int64_t rows,
                                   int64_t columns,
                                   int64_t chunk_rows,
                                   Sums<N>* partial) {
  __shared__ Sums<N> block[kRowLanes][kColumns];
  int x = int(threadIdx.x) % kColumns, y = int(threadIdx.x) / kColumns;
  int64_t column = int64_t(blockIdx.x) * kColumns + x, chunk = blockIdx.y, segment = blockIdx.z;
  Sums<N> sums{};
  if (column < columns) {
    auto at = terms.column(segment, column);
    int64_t last = (chunk + 1) * chunk_rows < rows ? (chunk + 1) * chunk_rows : rows;
    for (int64_t row = chunk * chunk_rows + y; row < last; row += kRowLanes)
      terms.add(sums, at, row);
  }
  block[y][x] = sums;
  __syncthreads();
  if (y != 0 || column >= columns) return;
  for (int i = 1; i < kRowLanes; ++i)
    for (int k = 0; k < N; ++k) sums.of[k] += block[i][x].of[k];
  partial[(segment * gridDim.y + chunk) * columns + column] = sums;
}

// partial (segments, chunks.count, columns)
template <int N, class Terms>
void column_sums(const char* name,
                 Stream stream,
                 const Terms& terms,
                 int64_t segments,
                 int64_t rows,
                 int64_t columns,
                 const Chunks& chunks,
                 Sums<N>* partial) {
  void (*kernel)(Terms, int64_t, int64_t, int64_t, Sums<N>*) = column_sums_kernel<N, Terms>;
  launch(name, kernel, {blocks_for(columns, kColumns), unsigned(chunks.count), unsigned(segments)},
         kColumns * kRowLanes, 0, stream, terms, rows, columns, chunks.rows, partial);
}

// x (segments, rows, columns) itself
template <class T>
struct PlainTerms {
  const T* x;
  int64_t rows, columns;
  __device__ const T* column(int64_t segment, int64_t column) const {
    return x + segment * rows * columns + column;
  }
  __device__ void add(Sums<1>& sums, const T* at, int64_t row) const {
    sums.of[0] += widen(at[row * columns]);
  }
};

}  // namespace spindle::cuda
