// Attention by kernels of our own, for the shapes that cuDNN does not take: FlashAttention-2's schedule (arXiv 2307.08691) on
// mma.sync for bfloat16, and plain loops for float32 and odd widths. Backward recomputes the probabilities from lse, once for
// dq and once for dk and dv: every sum has one owner and a fixed order.
#include <cmath>

#include "kernels/cuda/device_code.h"
#include "kernels/cuda/fused_attention.h"

// Arrays live in registers only where every index is known.
#if defined(SPINDLE_CUDA_EMULATED)
#define UNROLL
#else
#define UNROLL _Pragma("unroll")
#endif

namespace spindle::cuda {

namespace {

constexpr int kThreads = 128, kWarps = kThreads / kWarp;
constexpr int kRows = 64;             // rows that a block owns: 16 per warp
constexpr int kForwardKeys = 64;      // keys of a tile in forward
constexpr int kBackwardRows = 32;     // rows of a tile that passes by in backward
constexpr int kMaxTensorWidth = 160, kMaxWidth = 256;
constexpr float kLog2E = 1.4426950408889634f;
constexpr float kMinusInfinity = -INFINITY;

// Where row `i` of head `h` of image `b` begins: (b * length + i) * channels + h * width
struct Sizes {
  int heads, width, queries, keys, causal;
  float scale;
  int64_t channels;

  __device__ int64_t query(int64_t b, int h, int64_t i) const { return (b * queries + i) * channels + int64_t(h) * width; }
  __device__ int64_t key(int64_t b, int h, int64_t j) const { return (b * keys + j) * channels + int64_t(h) * width; }
  __device__ int64_t row(int64_t b, int h, int64_t i) const { return (b * heads + h) * queries + i; }
  __device__ bool sees(int i, int j) const { return i < queries && j < keys && (!causal || j <= i); }
};

// --- tensor cores: D is the width, rounded up to a multiple of 16; shared rows have 8 elements more, so that ldmatrix meets no bank twice

template <int D>
constexpr int kStride = D + 8;

// `rows` rows from `first` on into shared memory, zeros beyond `limit` and beyond the width.
template <int D>
__device__ void load_rows(bf16* shared, const bf16* from, int64_t channels, int first, int rows, int limit, int width) {
  using Eight = Pack<bf16, 8>;
  for (int i = int(threadIdx.x); i < rows * (D / 8); i += kThreads) {
    int r = i / (D / 8), c = i % (D / 8) * 8;
    Eight eight{};
    if (first + r < limit && c < width) eight = *reinterpret_cast<const Eight*>(from + int64_t(first + r) * channels + c);
    *reinterpret_cast<Eight*>(shared + r * kStride<D> + c) = eight;
  }
}

// s (16, 8 N) = a (16, D) b (8 N, D)^T, rows in shared memory
template <int D, int N>
__device__ void rows_by_rows(float (&s)[N][4], const bf16* a, const bf16* b) {
  const int lane = int(threadIdx.x) % kWarp, matrix = lane / 8, r = lane % 8;
  for (int n = 0; n < N; ++n)
    for (int i = 0; i < 4; ++i) s[n][i] = 0;
UNROLL
  for (int k = 0; k < D; k += 16) {
    uint32_t left[4];
    load_matrices(left, a + (matrix % 2 * 8 + r) * kStride<D> + k + matrix / 2 * 8);
UNROLL
    for (int n = 0; n < N; n += 2) {
      uint32_t right[4];
      load_matrices(right, b + (n * 8 + matrix / 2 * 8 + r) * kStride<D> + k + matrix % 2 * 8);
      mma_16816(s[n], left, {right[0], right[1]});
      mma_16816(s[n + 1], left, {right[2], right[3]});
    }
  }
}

// sum (16, D) += a (16, 16) b (16, D): a in registers as mma wants it, b's rows in shared memory
template <int D>
__device__ void add_product(float (&sum)[D / 8][4], const uint32_t (&a)[4], const bf16* b) {
  const int lane = int(threadIdx.x) % kWarp, matrix = lane / 8, r = lane % 8;
UNROLL
  for (int n = 0; n < D / 8; n += 2) {
    uint32_t right[4];
    load_matrices_transposed(right, b + (matrix % 2 * 8 + r) * kStride<D> + n * 8 + matrix / 2 * 8);
    mma_16816(sum[n], a, {right[0], right[1]});
    mma_16816(sum[n + 1], a, {right[2], right[3]});
  }
}

// Two neighbouring tiles (16, 8) of sums as the left operand (16, 16) of the next product.
__device__ __forceinline__ void as_left(uint32_t (&a)[4], const float (&first)[4], const float (&second)[4]) {
  a[0] = pack_bf16(first[0], first[1]);
  a[1] = pack_bf16(first[2], first[3]);
  a[2] = pack_bf16(second[0], second[1]);
  a[3] = pack_bf16(second[2], second[3]);
}

// Over the four lanes that share a row.
__device__ __forceinline__ float row_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, 1));
  return fmaxf(x, __shfl_xor_sync(kAllLanes, x, 2));
}
__device__ __forceinline__ float row_sum(float x) {
  x += __shfl_xor_sync(kAllLanes, x, 1);
  return x + __shfl_xor_sync(kAllLanes, x, 2);
}

// A warp's sums (16, D) times a factor per half into rows `first`... of a tensor.
template <int D>
__device__ void store_rows(bf16* to, const float (&sum)[D / 8][4], float upper, float lower, int64_t channels, int first, int limit, int width, bool accumulate) {
  const int lane = int(threadIdx.x) % kWarp;
  UNROLL
  for (int half = 0; half < 2; ++half) {
    int i = first + lane / 4 + half * 8;
    if (i >= limit) continue;
    float factor = half ? lower : upper;
UNROLL
    for (int n = 0; n < D / 8; ++n) {
      int c = n * 8 + lane % 4 * 2;
      if (c >= width) break;
      bf16* at = to + int64_t(i) * channels + c;
      float x = sum[n][half * 2] * factor, y = sum[n][half * 2 + 1] * factor;
      if (accumulate) x += widen(at[0]), y += widen(at[1]);
      at[0] = narrow<bf16>(x);
      at[1] = narrow<bf16>(y);
    }
  }
}

template <int D>
__global__ void __launch_bounds__(kThreads) forward_kernel(bf16* o, float* lse, const bf16* q, const bf16* k, const bf16* v, Sizes s) {
  DYNAMIC_SHARED(bf16, shared);
  bf16 *rows = shared, *keys = rows + kRows * kStride<D>, *values = keys + kForwardKeys * kStride<D>;
  const int lane = int(threadIdx.x) % kWarp, warp = int(threadIdx.x) / kWarp, head = int(blockIdx.y);
  const int64_t image = blockIdx.z;
  const int block_first = int(blockIdx.x) * kRows, first = block_first + warp * 16;
  load_rows<D>(rows, q + s.query(image, head, 0), s.channels, block_first, kRows, s.queries, s.width);
  float sum[D / 8][4] = {};
  // Of row lane / 4 and the one 8 below. Scores are kept times log2(e), so that exp2 does.
  float highest[2] = {kMinusInfinity, kMinusInfinity}, total[2] = {0, 0};
  const float factor = s.scale * kLog2E;
  const int last = s.causal && block_first + kRows < s.keys ? block_first + kRows : s.keys;
  for (int j = 0; j < last; j += kForwardKeys) {
    __syncthreads();
    load_rows<D>(keys, k + s.key(image, head, 0), s.channels, j, kForwardKeys, s.keys, s.width);
    load_rows<D>(values, v + s.key(image, head, 0), s.channels, j, kForwardKeys, s.keys, s.width);
    __syncthreads();
    float scores[kForwardKeys / 8][4];
    rows_by_rows<D>(scores, rows + warp * 16 * kStride<D>, keys);
    UNROLL
    for (int half = 0; half < 2; ++half) {
      int i = first + lane / 4 + half * 8;
      float best = highest[half];
      for (int n = 0; n < kForwardKeys / 8; ++n)
        for (int e = 0; e < 2; ++e) {
          float& score = scores[n][half * 2 + e];
          score = s.sees(i, j + n * 8 + lane % 4 * 2 + e) ? score * factor : kMinusInfinity;
          best = fmaxf(best, score);
        }
      best = row_max(best);
      // A row beyond the last query sees nothing.
      float base = best == kMinusInfinity ? 0 : best;
      float before = exp2f(highest[half] - base), now = 0;
      for (int n = 0; n < kForwardKeys / 8; ++n)
        for (int e = 0; e < 2; ++e) {
          float& score = scores[n][half * 2 + e];
          score = exp2f(score - base);
          now += score;
        }
      total[half] = total[half] * before + row_sum(now);
      highest[half] = best;
      for (int n = 0; n < D / 8; ++n)
        for (int e = 0; e < 2; ++e) sum[n][half * 2 + e] *= before;
    }
UNROLL
    for (int n = 0; n < kForwardKeys / 16; ++n) {
      uint32_t left[4];
      as_left(left, scores[2 * n], scores[2 * n + 1]);
      add_product<D>(sum, left, values + n * 16 * kStride<D>);
    }
  }
  store_rows<D>(o + s.query(image, head, 0), sum, 1 / total[0], 1 / total[1], s.channels, first, s.queries, s.width, false);
  UNROLL
  for (int half = 0; half < 2; ++half) {
    int i = first + lane / 4 + half * 8;
    if (lane % 4 == 0 && i < s.queries) lse[s.row(image, head, i)] = (highest[half] + log2f(total[half])) / kLog2E;
  }
}

// p and ds of one tile (16, 16): `scores` become the probabilities, `products` (d_o v^T) become scale-free dS. Rows are queries, or
// keys where `turned`; lse (times log2 e) and delta of the queries.
__device__ __forceinline__ void probabilities(float (&scores)[2][4], float (&products)[2][4], const Sizes& s, int row, int column, const float* lse, const float* delta, int first_query, bool turned) {
  const int lane = int(threadIdx.x) % kWarp;
  const float factor = s.scale * kLog2E;
  for (int n = 0; n < 2; ++n)
    for (int e = 0; e < 4; ++e) {
      int r = row + lane / 4 + e / 2 * 8, c = column + n * 8 + lane % 4 * 2 + e % 2;
      int i = turned ? c : r, j = turned ? r : c;
      bool seen = s.sees(i, j);
      float p = seen ? exp2f(scores[n][e] * factor - lse[i - first_query]) : 0;
      scores[n][e] = p;
      products[n][e] = seen ? p * (products[n][e] - delta[i - first_query]) : 0;
    }
}

// lse times log2 e and delta of `rows` queries into shared memory.
__device__ void load_statistics(float* shared_lse, float* shared_delta, const float* lse, const float* delta, int first, int rows, int limit) {
  for (int i = int(threadIdx.x); i < rows; i += kThreads) {
    shared_lse[i] = first + i < limit ? lse[first + i] * kLog2E : 0;
    shared_delta[i] = first + i < limit ? delta[first + i] : 0;
  }
}

template <int D>
__global__ void __launch_bounds__(kThreads) backward_query_kernel(bf16* dq, const bf16* d_o, const float* lse, const float* delta, const bf16* q, const bf16* k, const bf16* v, Sizes s, int accumulate) {
  DYNAMIC_SHARED(bf16, shared);
  bf16 *queries = shared, *outputs = queries + kRows * kStride<D>, *keys = outputs + kRows * kStride<D>, *values = keys + kBackwardRows * kStride<D>;
  float *row_lse = reinterpret_cast<float*>(values + kBackwardRows * kStride<D>), *row_delta = row_lse + kRows;
  const int warp = int(threadIdx.x) / kWarp, head = int(blockIdx.y);
  const int64_t image = blockIdx.z;
  const int block_first = int(blockIdx.x) * kRows, first = block_first + warp * 16;
  load_rows<D>(queries, q + s.query(image, head, 0), s.channels, block_first, kRows, s.queries, s.width);
  load_rows<D>(outputs, d_o + s.query(image, head, 0), s.channels, block_first, kRows, s.queries, s.width);
  load_statistics(row_lse, row_delta, lse + s.row(image, head, 0), delta + s.row(image, head, 0), block_first, kRows, s.queries);
  float sum[D / 8][4] = {};
  const int last = s.causal && block_first + kRows < s.keys ? block_first + kRows : s.keys;
  for (int j = 0; j < last; j += kBackwardRows) {
    __syncthreads();
    load_rows<D>(keys, k + s.key(image, head, 0), s.channels, j, kBackwardRows, s.keys, s.width);
    load_rows<D>(values, v + s.key(image, head, 0), s.channels, j, kBackwardRows, s.keys, s.width);
    __syncthreads();
    for (int part = 0; part < kBackwardRows; part += 16) {
      float scores[2][4], products[2][4];
      rows_by_rows<D>(scores, queries + warp * 16 * kStride<D>, keys + part * kStride<D>);
      rows_by_rows<D>(products, outputs + warp * 16 * kStride<D>, values + part * kStride<D>);
      probabilities(scores, products, s, first, j + part, row_lse, row_delta, block_first, false);
      uint32_t left[4];
      as_left(left, products[0], products[1]);
      add_product<D>(sum, left, keys + part * kStride<D>);
    }
  }
  store_rows<D>(dq + s.query(image, head, 0), sum, s.scale, s.scale, s.channels, first, s.queries, s.width, accumulate);
}

template <int D>
__global__ void __launch_bounds__(kThreads) backward_key_kernel(bf16* dk, bf16* dv, const bf16* d_o, const float* lse, const float* delta, const bf16* q, const bf16* k, const bf16* v, Sizes s, int accumulate_k, int accumulate_v) {
  DYNAMIC_SHARED(bf16, shared);
  bf16 *keys = shared, *values = keys + kRows * kStride<D>, *queries = values + kRows * kStride<D>, *outputs = queries + kBackwardRows * kStride<D>;
  float *row_lse = reinterpret_cast<float*>(outputs + kBackwardRows * kStride<D>), *row_delta = row_lse + kBackwardRows;
  const int warp = int(threadIdx.x) / kWarp, head = int(blockIdx.y);
  const int64_t image = blockIdx.z;
  const int block_first = int(blockIdx.x) * kRows, first = block_first + warp * 16;
  load_rows<D>(keys, k + s.key(image, head, 0), s.channels, block_first, kRows, s.keys, s.width);
  load_rows<D>(values, v + s.key(image, head, 0), s.channels, block_first, kRows, s.keys, s.width);
  float sum_k[D / 8][4] = {}, sum_v[D / 8][4] = {};
  // Causal: no query before the block's first key sees any of it.
  for (int i = s.causal ? block_first / kBackwardRows * kBackwardRows : 0; i < s.queries; i += kBackwardRows) {
    __syncthreads();
    load_rows<D>(queries, q + s.query(image, head, 0), s.channels, i, kBackwardRows, s.queries, s.width);
    load_rows<D>(outputs, d_o + s.query(image, head, 0), s.channels, i, kBackwardRows, s.queries, s.width);
    load_statistics(row_lse, row_delta, lse + s.row(image, head, 0), delta + s.row(image, head, 0), i, kBackwardRows, s.queries);
    __syncthreads();
    for (int part = 0; part < kBackwardRows; part += 16) {
      float scores[2][4], products[2][4];
      rows_by_rows<D>(scores, keys + warp * 16 * kStride<D>, queries + part * kStride<D>);
      rows_by_rows<D>(products, values + warp * 16 * kStride<D>, outputs + part * kStride<D>);
      probabilities(scores, products, s, first, i + part, row_lse, row_delta, i, true);
      uint32_t left[4];
      as_left(left, scores[0], scores[1]);
      add_product<D>(sum_v, left, outputs + part * kStride<D>);
      as_left(left, products[0], products[1]);
      add_product<D>(sum_k, left, queries + part * kStride<D>);
    }
  }
  if (dk) store_rows<D>(dk + s.key(image, head, 0), sum_k, s.scale, s.scale, s.channels, first, s.keys, s.width, accumulate_k);
  if (dv) store_rows<D>(dv + s.key(image, head, 0), sum_v, 1, 1, s.channels, first, s.keys, s.width, accumulate_v);
}

// --- plain: a warp per row, a lane per key of 32, and per 32nd column of the sums

constexpr int kColumns = kMaxWidth / kWarp;

template <class T>
__device__ float dot(const T* a, const T* b, int n) {
  float sum = 0;
  for (int i = 0; i < n; ++i) sum += widen(a[i]) * widen(b[i]);
  return sum;
}

template <class T>
__device__ void store_columns(T* to, const float (&sum)[kColumns], float factor, int width, bool accumulate) {
  const int lane = int(threadIdx.x) % kWarp;
  for (int n = 0; n < kColumns; ++n) {
    int c = n * kWarp + lane;
    if (c >= width) break;
    float x = sum[n] * factor;
    if (accumulate) x += widen(to[c]);
    to[c] = narrow<T>(x);
  }
}

// sum += weight of lane j times row j, for 32 rows from `rows` on
template <class T>
__device__ void add_rows(float (&sum)[kColumns], float weight, const T* rows, int64_t channels, int count, int width) {
  const int lane = int(threadIdx.x) % kWarp;
  for (int j = 0; j < kWarp; ++j) {
    float w = __shfl_sync(kAllLanes, weight, j);
    if (j >= count) continue;
    for (int n = 0; n < kColumns; ++n) {
      int c = n * kWarp + lane;
      if (c < width) sum[n] += w * widen(rows[int64_t(j) * channels + c]);
    }
  }
}

__device__ __forceinline__ float warp_max(float x) {
  for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, lanes));
  return x;
}

__device__ __forceinline__ int smaller(int a, int b) { return a < b ? a : b; }

template <class T>
__global__ void plain_forward_kernel(T* o, float* lse, const T* q, const T* k, const T* v, Sizes s) {
  const int lane = int(threadIdx.x) % kWarp, i = int(blockIdx.x) * kWarps + int(threadIdx.x) / kWarp, head = int(blockIdx.y);
  const int64_t image = blockIdx.z;
  if (i >= s.queries) return;  // a whole warp
  const T* row = q + s.query(image, head, i);
  float sum[kColumns] = {}, highest = kMinusInfinity, total = 0;
  const int last = s.causal ? smaller(s.keys, i + 1) : s.keys;
  for (int j = 0; j < last; j += kWarp) {
    float score = j + lane < last ? s.scale * dot(row, k + s.key(image, head, j + lane), s.width) : kMinusInfinity;
    float best = fmaxf(highest, warp_max(score)), before = expf(highest - best), p = expf(score - best);
    total = total * before + warp_sum(p);
    highest = best;
    for (int n = 0; n < kColumns; ++n) sum[n] *= before;
    add_rows(sum, p, v + s.key(image, head, j), s.channels, smaller(kWarp, last - j), s.width);
  }
  store_columns(o + s.query(image, head, i), sum, 1 / total, s.width, false);
  if (lane == 0) lse[s.row(image, head, i)] = highest + logf(total);
}

template <class T>
__global__ void plain_backward_query_kernel(T* dq, const T* d_o, const float* lse, const float* delta, const T* q, const T* k, const T* v, Sizes s, int accumulate) {
  const int lane = int(threadIdx.x) % kWarp, i = int(blockIdx.x) * kWarps + int(threadIdx.x) / kWarp, head = int(blockIdx.y);
  const int64_t image = blockIdx.z;
  if (i >= s.queries) return;
  const T *row = q + s.query(image, head, i), *out = d_o + s.query(image, head, i);
  float sum[kColumns] = {};
  const int last = s.causal ? smaller(s.keys, i + 1) : s.keys;
  for (int j = 0; j < last; j += kWarp) {
    float ds = 0;
    if (j + lane < last) {
      float p = expf(s.scale * dot(row, k + s.key(image, head, j + lane), s.width) - lse[s.row(image, head, i)]);
      ds = p * (dot(out, v + s.key(image, head, j + lane), s.width) - delta[s.row(image, head, i)]);
    }
    add_rows(sum, ds, k + s.key(image, head, j), s.channels, smaller(kWarp, last - j), s.width);
  }
  store_columns(dq + s.query(image, head, i), sum, s.scale, s.width, accumulate);
}

template <class T>
__global__ void plain_backward_key_kernel(T* dk, T* dv, const T* d_o, const float* lse, const float* delta, const T* q, const T* k, const T* v, Sizes s, int accumulate_k, int accumulate_v) {
  const int lane = int(threadIdx.x) % kWarp, j = int(blockIdx.x) * kWarps + int(threadIdx.x) / kWarp, head = int(blockIdx.y);
  const int64_t image = blockIdx.z;
  if (j >= s.keys) return;
  const T *key = k + s.key(image, head, j), *value = v + s.key(image, head, j);
  float sum_k[kColumns] = {}, sum_v[kColumns] = {};
  for (int i = s.causal ? j : 0; i < s.queries; i += kWarp) {
    float p = 0, ds = 0;
    if (i + lane < s.queries) {
      p = expf(s.scale * dot(q + s.query(image, head, i + lane), key, s.width) - lse[s.row(image, head, i + lane)]);
      ds = p * (dot(d_o + s.query(image, head, i + lane), value, s.width) - delta[s.row(image, head, i + lane)]);
    }
    int count = smaller(kWarp, s.queries - i);
    add_rows(sum_v, p, d_o + s.query(image, head, i), s.channels, count, s.width);
    add_rows(sum_k, ds, q + s.query(image, head, i), s.channels, count, s.width);
  }
  if (dk) store_columns(dk + s.key(image, head, j), sum_k, s.scale, s.width, accumulate_k);
  if (dv) store_columns(dv + s.key(image, head, j), sum_v, 1, s.width, accumulate_v);
}

// delta (B,heads,Tq) = sum over the head's columns of d_o * o
template <class T>
__global__ void delta_kernel(float* delta, const T* d_o, const T* o, Sizes s) {
  const int lane = int(threadIdx.x) % kWarp, i = int(blockIdx.x) * kWarps + int(threadIdx.x) / kWarp, head = int(blockIdx.y);
  const int64_t image = blockIdx.z;
  if (i >= s.queries) return;
  const T *a = d_o + s.query(image, head, i), *b = o + s.query(image, head, i);
  float sum = 0;
  for (int c = lane; c < s.width; c += kWarp) sum += widen(a[c]) * widen(b[c]);
  sum = warp_sum(sum);
  if (lane == 0) delta[s.row(image, head, i)] = sum;
}

// --- which kernel

unsigned blocks(int64_t rows, int64_t per_block) { return unsigned((rows + per_block - 1) / per_block); }

size_t forward_bytes(int d) { return size_t(kRows + 2 * kForwardKeys) * size_t(d + 8) * sizeof(bf16); }
size_t backward_bytes(int d) { return size_t(2 * kRows + 2 * kBackwardRows) * size_t(d + 8) * sizeof(bf16) + size_t(2 * kRows) * sizeof(float); }

// f(std::integral_constant<int, D>) with the smallest D that has room for the width
template <class F>
void with_width(int width, F&& f) {
  if (width <= 48) f(std::integral_constant<int, 48>());
  else if (width <= 80) f(std::integral_constant<int, 80>());
  else if (width <= 128) f(std::integral_constant<int, 128>());
  else f(std::integral_constant<int, 160>());
}

bool aligned(std::initializer_list<const void*> pointers) {
  for (const void* p : pointers)
    if (reinterpret_cast<uintptr_t>(p) % 16 != 0) return false;
  return true;
}

class OwnAttention : public FusedAttention {
 public:
  explicit OwnAttention(const LibraryOptions& options) : options_(options), stream_(static_cast<Stream>(options.stream)) {}

  const char* name() const override { return "own"; }

  bool takes(const AttentionShape& s, bool) override {
    return (s.dtype == DType::F32 || s.dtype == DType::BF16) && s.width >= 1 && s.width <= kMaxWidth && s.batch <= 65535 && s.heads <= 65535 && s.queries < (int64_t(1) << 30) && s.keys < (int64_t(1) << 30);
  }

  void forward(Tensor& o, Tensor& lse, const Tensor& q, const Tensor& k, const Tensor& v, const AttentionArgs& args) override {
    const Sizes s = sizes(q, k, args);
    const Grid grid{0, unsigned(args.heads), unsigned(q.dim(0))};
    if (tensor_cores(s, q.dtype(), {o.raw(), q.raw(), k.raw(), v.raw()})) {
      with_width(s.width, [&](auto d) {
        launch("attention_forward", forward_kernel<d()>, Grid{blocks(s.queries, kRows), grid.y, grid.z}, kThreads, forward_bytes(d()), stream_, o.data<bf16>(), lse.f32(), q.data<bf16>(), k.data<bf16>(), v.data<bf16>(), s);
      });
      return;
    }
    typed(q.dtype(), [&](auto zero) {
      using T = decltype(zero);
      launch("attention_forward_plain", plain_forward_kernel<T>, Grid{blocks(s.queries, kWarps), grid.y, grid.z}, kThreads, 0, stream_, o.data<T>(), lse.f32(), q.data<T>(), k.data<T>(), v.data<T>(), s);
    });
  }

  void backward(const GradSlot& dq, const GradSlot& dk, const GradSlot& dv, const Tensor& d_o, const Tensor& o, const Tensor& lse, const Tensor& q, const Tensor& k, const Tensor& v, const AttentionArgs& args) override {
    const Sizes s = sizes(q, k, args);
    Tensor delta(*options_.scratch, lse.shape(), DType::F32);
    const unsigned heads = unsigned(args.heads), images = unsigned(q.dim(0));
    auto pointer = [](const GradSlot& slot) { return slot ? slot.tensor.raw() : nullptr; };
    typed(q.dtype(), [&](auto zero) {
      using T = decltype(zero);
      launch("attention_delta", delta_kernel<T>, Grid{blocks(s.queries, kWarps), heads, images}, kThreads, 0, stream_, delta.f32(), d_o.data<T>(), o.data<T>(), s);
    });
    if (tensor_cores(s, q.dtype(), {q.raw(), k.raw(), v.raw(), d_o.raw()})) {
      with_width(s.width, [&](auto d) {
        if (dq)
          launch("attention_backward_query", backward_query_kernel<d()>, Grid{blocks(s.queries, kRows), heads, images}, kThreads, backward_bytes(d()), stream_, dq.tensor.data<bf16>(), d_o.data<bf16>(), lse.f32(),
                 delta.f32(), q.data<bf16>(), k.data<bf16>(), v.data<bf16>(), s, int(dq.accumulate));
        if (dk || dv)
          launch("attention_backward_key", backward_key_kernel<d()>, Grid{blocks(s.keys, kRows), heads, images}, kThreads, backward_bytes(d()), stream_, static_cast<bf16*>(pointer(dk)), static_cast<bf16*>(pointer(dv)),
                 d_o.data<bf16>(), lse.f32(), delta.f32(), q.data<bf16>(), k.data<bf16>(), v.data<bf16>(), s, int(dk.accumulate), int(dv.accumulate));
      });
      return;
    }
    typed(q.dtype(), [&](auto zero) {
      using T = decltype(zero);
      if (dq)
        launch("attention_backward_query_plain", plain_backward_query_kernel<T>, Grid{blocks(s.queries, kWarps), heads, images}, kThreads, 0, stream_, dq.tensor.data<T>(), d_o.data<T>(), lse.f32(), delta.f32(), q.data<T>(),
               k.data<T>(), v.data<T>(), s, int(dq.accumulate));
      if (dk || dv)
        launch("attention_backward_key_plain", plain_backward_key_kernel<T>, Grid{blocks(s.keys, kWarps), heads, images}, kThreads, 0, stream_, static_cast<T*>(pointer(dk)), static_cast<T*>(pointer(dv)), d_o.data<T>(), lse.f32(),
               delta.f32(), q.data<T>(), k.data<T>(), v.data<T>(), s, int(dk.accumulate), int(dv.accumulate));
    });
  }

 private:
  Sizes sizes(const Tensor& q, const Tensor& k, const AttentionArgs& args) {
    AttentionShape shape(q, k, args);
    require(takes(shape, true) && shape.width * shape.heads == q.dim(2), "[cuda] attention: expected float32 or bfloat16 and heads of 1 to ", kMaxWidth, " columns, got q ", q.shape(), " ", dtype_name(q.dtype()), " in ", args.heads, " heads");
    return {int(shape.heads), int(shape.width), int(shape.queries), int(shape.keys), int(shape.causal), float(args.scale != 0 ? args.scale : 1 / std::sqrt(double(shape.width))), q.dim(2)};
  }

  static bool tensor_cores(const Sizes& s, DType dtype, std::initializer_list<const void*> pointers) { return dtype == DType::BF16 && s.width % 8 == 0 && s.width <= kMaxTensorWidth && aligned(pointers); }

  template <class F>
  static void typed(DType dtype, F&& f) {
    if (dtype == DType::BF16) f(bf16{});
    else f(0.0f);
  }

  LibraryOptions options_;
  Stream stream_;
};

}  // namespace

std::unique_ptr<FusedAttention> make_own_attention(const LibraryOptions& options) { return std::make_unique<OwnAttention>(options); }

}  // namespace spindle::cuda
