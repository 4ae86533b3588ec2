// Sums of squares in double, chunk by chunk: a block owns a chunk of fixed size, so that the order
// of a sum depends on the number of values alone. Chunks are added afterwards, in their order.
#pragma once
#include "kernels/cuda/device_code.h"

namespace spindle::cuda {

constexpr unsigned kSumBlock = 256;
constexpr int64_t kSumChunk = 16384;  // values that one block sums

// partial[image][chunk] = sum of (a - b)^2 over a chunk of the image's n values; b null: of a^2.
// Block (x, y) owns chunk x of image y. A thread walks every 256th value of it, so that neighbours
// read neighbours; the block then adds its threads' sums (block_sum).
template <class A, class B>
__global__ void squares_kernel(double* partial, const A* a, const B* b, int64_t n) {
  __shared__ double warps[kSumBlock / kWarp];
  int64_t image = blockIdx.y, first = int64_t(blockIdx.x) * kSumChunk,
          last = first + kSumChunk < n ? first + kSumChunk : n;
  double sum = 0;
  for (int64_t i = first + threadIdx.x; i < last; i += kSumBlock) {
    double d = double(widen(a[image * n + i])) - (b ? double(widen(b[image * n + i])) : 0.0);
    sum += d * d;
  }
  sum = block_sum(sum, warps);
  if (threadIdx.x == 0) partial[image * gridDim.x + blockIdx.x] = sum;
}

}  // namespace spindle::cuda
