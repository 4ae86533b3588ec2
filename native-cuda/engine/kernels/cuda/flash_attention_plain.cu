// Attention by plain loops, for float32 and odd widths: a warp per row, a lane per key of 32, and
// per 32nd column of the sums.
#include "kernels/cuda/flash_attention.h"

namespace spindle::cuda::flash_attention {

namespace {

constexpr int kColumns = kMaxWidth / kWarp;

template <class T>
__device__ float dot(const T* a, const T* b, int n) {
  float sum = 0;
  for (int i = 0; i < n; ++i) sum += widen(a[i]) * widen(b[i]);
  return sum;
}

template <class T>
__device__ void store_columns(T* to,
                              const float (&sum)[kColumns],
                              float factor,
                              int width,
                              bool accumulate) {
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
__device__ void add_rows(float (&sum)[kColumns],
                         float weight,
                         const T* rows,
                         int64_t channels,
                         int count,
                         int width) {
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
  for (int lanes = kWarp / 2; lanes > 0; lanes /= 2)
    x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, lanes));
  return x;
}

__device__ __forceinline__ int smaller(int a, int b) { return a < b ? a : b; }

// A warp owns one query. It walks over the keys that the query sees, 32 at a time: a lane scores
// one key, the warp agrees on the highest score so far (the online softmax of arXiv 2205.14135),
// and every lane adds the weighted values to its own columns (lane, lane + 32, ...). When a higher
// score turns up, what was summed before is scaled down by exp(old highest - new highest), so no
// exponent is ever above 0.
template <class T>
__global__ void plain_forward_kernel(T* o,
                                     float* lse,
                                     const T* q,
                                     const T* k,
                                     const T* v,
                                     Sizes s) {
  const int lane = int(threadIdx.x) % kWarp,
            i = int(blockIdx.x) * kWarps + int(threadIdx.x) / kWarp, head = int(blockIdx.y);
  const int64_t image = blockIdx.z;
  if (i >= s.queries) return;  // a whole warp
  const T* row = q + s.query(image, head, i);
  float sum[kColumns] = {}, highest = kMinusInfinity, total = 0;
  const int last = s.causal ? smaller(s.keys, i + 1) : s.keys;
  for (int j = 0; j < last; j += kWarp) {
    float score = j + lane < last ? s.scale * dot(row, k + s.key(image, head, j + lane), s.width)
                                  : kMinusInfinity;
    float best = fmaxf(highest, warp_max(score)), before = expf(highest - best),
          p = expf(score - best);
    total = total * before + warp_sum(p);
    highest = best;
    for (int n = 0; n < kColumns; ++n) sum[n] *= before;
    add_rows(sum, p, v + s.key(image, head, j), s.channels, smaller(kWarp, last - j), s.width);
  }
  store_columns(o + s.query(image, head, i), sum, 1 / total, s.width, false);
  if (lane == 0) lse[s.row(image, head, i)] = highest + logf(total);
}

// A warp owns one query's dq and walks over the keys that it sees, 32 at a time. A lane makes its
// key's probability again from lse, p = exp(score - lse), and ds = p (d_o . v - delta); then all
// lanes add ds times the key's row to their columns. One owner a sum: no atomics, one order.
template <class T>
__global__ void plain_backward_query_kernel(Operands<T> in, Gradients<T> g) {
  const Sizes& s = in.s;
  const int lane = int(threadIdx.x) % kWarp,
            i = int(blockIdx.x) * kWarps + int(threadIdx.x) / kWarp, head = int(blockIdx.y);
  const int64_t image = blockIdx.z;
  if (i >= s.queries) return;
  const T *row = in.q + s.query(image, head, i), *out = g.d_o + s.query(image, head, i);
  float sum[kColumns] = {};
  const int last = s.causal ? smaller(s.keys, i + 1) : s.keys;
  for (int j = 0; j < last; j += kWarp) {
    float ds = 0;
    if (j + lane < last) {
      float p = expf(s.scale * dot(row, in.k + s.key(image, head, j + lane), s.width) -
                     g.lse[s.row(image, head, i)]);
      ds = p * (dot(out, in.v + s.key(image, head, j + lane), s.width) -
                g.delta[s.row(image, head, i)]);
    }
    add_rows(sum, ds, in.k + s.key(image, head, j), s.channels, smaller(kWarp, last - j), s.width);
  }
  store_columns(g.dq + s.query(image, head, i), sum, s.scale, s.width, g.accumulate_q);
}

// The other way round: a warp owns one key's dk and dv and walks over the queries that see it, from
// the first one on (with a causal mask that is the key's own place).
template <class T>
__global__ void plain_backward_key_kernel(Operands<T> in, Gradients<T> g) {
  const Sizes& s = in.s;
  const int lane = int(threadIdx.x) % kWarp,
            j = int(blockIdx.x) * kWarps + int(threadIdx.x) / kWarp, head = int(blockIdx.y);
  const int64_t image = blockIdx.z;
  if (j >= s.keys) return;
  const T *key = in.k + s.key(image, head, j), *value = in.v + s.key(image, head, j);
  float sum_k[kColumns] = {}, sum_v[kColumns] = {};
  for (int i = s.causal ? j : 0; i < s.queries; i += kWarp) {
    float p = 0, ds = 0;
    if (i + lane < s.queries) {
      p = expf(s.scale * dot(in.q + s.query(image, head, i + lane), key, s.width) -
               g.lse[s.row(image, head, i + lane)]);
      ds = p * (dot(g.d_o + s.query(image, head, i + lane), value, s.width) -
                g.delta[s.row(image, head, i + lane)]);
    }
    int count = smaller(kWarp, s.queries - i);
    add_rows(sum_v, p, g.d_o + s.query(image, head, i), s.channels, count, s.width);
    add_rows(sum_k, ds, in.q + s.query(image, head, i), s.channels, count, s.width);
  }
  if (g.dk) store_columns(g.dk + s.key(image, head, j), sum_k, s.scale, s.width, g.accumulate_k);
  if (g.dv) store_columns(g.dv + s.key(image, head, j), sum_v, 1, s.width, g.accumulate_v);
}

// A warp owns one query of one head: delta = sum of d_o * o over the head's columns, which the
// softmax's gradient subtracts from every d_o . v.
template <class T>
__global__ void delta_kernel(float* delta, const T* d_o, const T* o, Sizes s) {
  const int lane = int(threadIdx.x) % kWarp,
            i = int(blockIdx.x) * kWarps + int(threadIdx.x) / kWarp, head = int(blockIdx.y);
  const int64_t image = blockIdx.z;
  if (i >= s.queries) return;
  const T *a = d_o + s.query(image, head, i), *b = o + s.query(image, head, i);
  float sum = 0;
  for (int c = lane; c < s.width; c += kWarp) sum += widen(a[c]) * widen(b[c]);
  sum = warp_sum(sum);
  if (lane == 0) delta[s.row(image, head, i)] = sum;
}

Grid rows_of(int64_t rows, const Sizes& s, int64_t images) {
  return {blocks(rows, kWarps), unsigned(s.heads), unsigned(images)};
}

}  // namespace

template <class T>
void plain_forward(Stream stream, int64_t images, T* o, float* lse, const Operands<T>& in) {
  launch("attention_forward_plain", plain_forward_kernel<T>, rows_of(in.s.queries, in.s, images),
         kThreads, 0, stream, o, lse, in.q, in.k, in.v, in.s);
}

template <class T>
void plain_backward(Stream stream, int64_t images, const Operands<T>& in, const Gradients<T>& g) {
  if (g.dq)
    launch("attention_backward_query_plain", plain_backward_query_kernel<T>,
           rows_of(in.s.queries, in.s, images), kThreads, 0, stream, in, g);
  if (g.dk || g.dv)
    launch("attention_backward_key_plain", plain_backward_key_kernel<T>,
           rows_of(in.s.keys, in.s, images), kThreads, 0, stream, in, g);
}

template <class T>
void output_products(Stream stream,
                     int64_t images,
                     float* delta,
                     const T* d_o,
                     const T* o,
                     const Sizes& s) {
  launch("attention_delta", delta_kernel<T>, rows_of(s.queries, s, images), kThreads, 0, stream,
         delta, d_o, o, s);
}

#define FOR_TYPE(T)                                                                       \
  template void plain_forward(Stream, int64_t, T*, float*, const Operands<T>&);           \
  template void plain_backward(Stream, int64_t, const Operands<T>&, const Gradients<T>&); \
  template void output_products(Stream, int64_t, float*, const T*, const T*, const Sizes&);
FOR_TYPE(float)
FOR_TYPE(bf16)

}  // namespace spindle::cuda::flash_attention
