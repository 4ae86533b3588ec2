// Attention on tensor cores: FlashAttention-2's schedule (arXiv 2307.08691) on mma.sync. Backward
// recomputes the probabilities from lse, once for dq and once for dk and dv: every sum has one
// owner and a fixed order.
#include "kernels/cuda/flash_attention.h"

// Arrays live in registers only where every index is known.
#if defined(SPINDLE_CUDA_EMULATED)
#define UNROLL
#else
#define UNROLL _Pragma("unroll")
#endif

namespace spindle::cuda::flash_attention {

namespace {

constexpr int kRows = 64;          // rows that a block owns: 16 per warp
constexpr int kForwardKeys = 64;   // keys of a tile in forward
constexpr int kBackwardRows = 32;  // rows of a tile that passes by in backward
constexpr float kLog2E = 1.4426950408889634f;

// D is the width, rounded up to a multiple of 16; shared rows have 8 elements more, so that
// ldmatrix meets no bank twice

template <int D>
constexpr int kStride = D + 8;

// `rows` rows from `first` on into shared memory, zeros beyond `limit` and beyond the width.
template <int D>
__device__ void load_rows(bf16* shared,
                          const bf16* from,
                          int64_t channels,
                          int first,
                          int rows,
                          int limit,
                          int width) {
  using Eight = Pack<bf16, 8>;
  for (int i = int(threadIdx.x); i < rows * (D / 8); i += kThreads) {
    int r = i / (D / 8), c = i % (D / 8) * 8;
    Eight eight{};
    if (first + r < limit && c < width)
      eight = *reinterpret_cast<const Eight*>(from + int64_t(first + r) * channels + c);
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
__device__ __forceinline__ void as_left(uint32_t (&a)[4],
                                        const float (&first)[4],
                                        const float (&second)[4]) {
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
__device__ void store_rows(bf16* to,
                           const float (&sum)[D / 8][4],
                           float upper,
                           float lower,
                           int64_t channels,
                           int first,
                           int limit,
                           int width,
                           bool accumulate) {
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

// A block owns 64 queries of one head, a warp 16 of them; keys and values pass by in tiles of 64
// rows through shared memory. Per tile a warp makes scores (16, 64) = q k^T on tensor cores, turns
// them into weights with the online softmax (a lane has two rows' pairs of columns: row_max and
// row_sum go over the four lanes that share a row), and adds weights times values to its sums,
// which never leave registers. Keys go from first to last in every block: one order of sums.
template <int D>
__global__ void __launch_bounds__(kThreads)
    forward_kernel(bf16* o, float* lse, const bf16* q, const bf16* k, const bf16* v, Sizes s) {
  DYNAMIC_SHARED(bf16, shared);
  bf16 *rows = shared, *keys = rows + kRows * kStride<D>,
       *values = keys + kForwardKeys * kStride<D>;
  const int lane = int(threadIdx.x) % kWarp, warp = int(threadIdx.x) / kWarp,
            head = int(blockIdx.y);
  const int64_t image = blockIdx.z;
  const int block_first = int(blockIdx.x) * kRows, first = block_first + warp * 16;
  load_rows<D>(rows, q + s.query(image, head, 0), s.channels, block_first, kRows, s.queries,
               s.width);
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
  store_rows<D>(o + s.query(image, head, 0), sum, 1 / total[0], 1 / total[1], s.channels, first,
                s.queries, s.width, false);
  UNROLL
  for (int half = 0; half < 2; ++half) {
    int i = first + lane / 4 + half * 8;
    if (lane % 4 == 0 && i < s.queries)
      lse[s.row(image, head, i)] = (highest[half] + log2f(total[half])) / kLog2E;
  }
}

// p and ds of one tile (16, 16): `scores` become the probabilities, `products` (d_o v^T) become
// scale-free dS. Rows are queries, or keys where `turned`; lse (times log2 e) and delta of the
// queries.
__device__ __forceinline__ void probabilities(float (&scores)[2][4],
                                              float (&products)[2][4],
                                              const Sizes& s,
                                              int row,
                                              int column,
                                              const float* lse,
                                              const float* delta,
                                              int first_query,
                                              bool turned) {
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

// Both backward kernels own kRows rows of two tensors and see tiles of two others pass by: for dq,
// q and d_o are owned, k and v pass; for dk and dv, k and v are owned, q and d_o pass. The
// statistics are the queries'.
template <int D>
struct BackwardTiles {
  bf16 *own_first, *own_second, *first, *second;
  float *lse, *delta;
  __device__ explicit BackwardTiles(bf16* shared, int queries) {
    own_first = shared;
    own_second = own_first + kRows * kStride<D>;
    first = own_second + kRows * kStride<D>;
    second = first + kBackwardRows * kStride<D>;
    lse = reinterpret_cast<float*>(second + kBackwardRows * kStride<D>);
    delta = lse + queries;
  }
  static size_t bytes() {
    return size_t(2 * kRows + 2 * kBackwardRows) * size_t(kStride<D>) * sizeof(bf16) +
           size_t(2 * kRows) * sizeof(float);
  }

  __device__ void load_own(const bf16* a,
                           const bf16* b,
                           int from,
                           int limit,
                           const Sizes& s) const {
    load_rows<D>(own_first, a, s.channels, from, kRows, limit, s.width);
    load_rows<D>(own_second, b, s.channels, from, kRows, limit, s.width);
  }
  __device__ void load_passing(const bf16* a,
                               const bf16* b,
                               int from,
                               int limit,
                               const Sizes& s) const {
    load_rows<D>(first, a, s.channels, from, kBackwardRows, limit, s.width);
    load_rows<D>(second, b, s.channels, from, kBackwardRows, limit, s.width);
  }
  __device__ void load_statistics(const float* from_lse,
                                  const float* from_delta,
                                  int from,
                                  int rows,
                                  int limit) const {  // lse times log2 e
    for (int i = int(threadIdx.x); i < rows; i += kThreads) {
      lse[i] = from + i < limit ? from_lse[from + i] * kLog2E : 0;
      delta[i] = from + i < limit ? from_delta[from + i] : 0;
    }
  }
  // p and dS of the warp's 16 rows and 16 passing ones from `part` on; rows and columns count from
  // `row` and `column` of the tensors.
  __device__ void probabilities(float (&p)[2][4],
                                float (&ds)[2][4],
                                const Sizes& s,
                                int part,
                                int row,
                                int column,
                                int first_query,
                                bool turned) const {
    const int warp = int(threadIdx.x) / kWarp;
    rows_by_rows<D>(p, own_first + warp * 16 * kStride<D>, first + part * kStride<D>);
    rows_by_rows<D>(ds, own_second + warp * 16 * kStride<D>, second + part * kStride<D>);
    cuda::flash_attention::probabilities(p, ds, s, row, column, lse, delta, first_query, turned);
  }
};

// A block owns dq of 64 queries, a warp 16 rows of it. Tiles of 32 keys and values pass by; from
// the probabilities, made again, dq += dS k. Every dq has one owner, which adds tiles from the
// first key on.
template <int D>
__global__ void __launch_bounds__(kThreads)
    backward_query_kernel(Operands<bf16> in, Gradients<bf16> g) {
  DYNAMIC_SHARED(bf16, shared);
  const Sizes& s = in.s;
  const BackwardTiles<D> tiles(shared, kRows);
  const int head = int(blockIdx.y), block_first = int(blockIdx.x) * kRows,
            first = block_first + int(threadIdx.x) / kWarp * 16;
  const int64_t image = blockIdx.z, queries = s.query(image, head, 0), keys = s.key(image, head, 0),
                statistics = s.row(image, head, 0);
  tiles.load_own(in.q + queries, g.d_o + queries, block_first, s.queries, s);
  tiles.load_statistics(g.lse + statistics, g.delta + statistics, block_first, kRows, s.queries);
  float sum[D / 8][4] = {};
  const int last = s.causal && block_first + kRows < s.keys ? block_first + kRows : s.keys;
  for (int j = 0; j < last; j += kBackwardRows) {
    __syncthreads();
    tiles.load_passing(in.k + keys, in.v + keys, j, s.keys, s);
    __syncthreads();
    for (int part = 0; part < kBackwardRows; part += 16) {
      float p[2][4], ds[2][4];
      tiles.probabilities(p, ds, s, part, first, j + part, block_first, false);
      uint32_t left[4];
      as_left(left, ds[0], ds[1]);
      add_product<D>(sum, left, tiles.first + part * kStride<D>);
    }
  }
  store_rows<D>(g.dq + queries, sum, s.scale, s.scale, s.channels, first, s.queries, s.width,
                g.accumulate_q);
}

// A block owns dk and dv of 64 keys; tiles of 32 queries pass by with their statistics. The
// products are the transposed ones: scores (keys, queries), so that rows are the owner's again: dv
// += p d_o, dk += dS q.
template <int D>
__global__ void __launch_bounds__(kThreads)
    backward_key_kernel(Operands<bf16> in, Gradients<bf16> g) {
  DYNAMIC_SHARED(bf16, shared);
  const Sizes& s = in.s;
  const BackwardTiles<D> tiles(shared, kBackwardRows);
  const int head = int(blockIdx.y), block_first = int(blockIdx.x) * kRows,
            first = block_first + int(threadIdx.x) / kWarp * 16;
  const int64_t image = blockIdx.z, queries = s.query(image, head, 0), keys = s.key(image, head, 0),
                statistics = s.row(image, head, 0);
  tiles.load_own(in.k + keys, in.v + keys, block_first, s.keys, s);
  float sum_k[D / 8][4] = {}, sum_v[D / 8][4] = {};
  // Causal: no query before the block's first key sees any of it.
  for (int i = s.causal ? block_first / kBackwardRows * kBackwardRows : 0; i < s.queries;
       i += kBackwardRows) {
    __syncthreads();
    tiles.load_passing(in.q + queries, g.d_o + queries, i, s.queries, s);
    tiles.load_statistics(g.lse + statistics, g.delta + statistics, i, kBackwardRows, s.queries);
    __syncthreads();
    for (int part = 0; part < kBackwardRows; part += 16) {
      float p[2][4], ds[2][4];
      tiles.probabilities(p, ds, s, part, first, i + part, i, true);
      uint32_t left[4];
      as_left(left, p[0], p[1]);
      add_product<D>(sum_v, left, tiles.second + part * kStride<D>);
      as_left(left, ds[0], ds[1]);
      add_product<D>(sum_k, left, tiles.first + part * kStride<D>);
    }
  }
  if (g.dk)
    store_rows<D>(g.dk + keys, sum_k, s.scale, s.scale, s.channels, first, s.keys, s.width,
                  g.accumulate_k);
  if (g.dv)
    store_rows<D>(g.dv + keys, sum_v, 1, 1, s.channels, first, s.keys, s.width, g.accumulate_v);
}

template <int D>
constexpr size_t kForwardBytes =
    size_t(kRows + 2 * kForwardKeys) * size_t(kStride<D>) * sizeof(bf16);

// f(std::integral_constant<int, D>) with the smallest D that has room for the width
template <class F>
void with_width(int width, F&& f) {
  if (width <= 48)
    f(std::integral_constant<int, 48>());
  else if (width <= 80)
    f(std::integral_constant<int, 80>());
  else if (width <= 128)
    f(std::integral_constant<int, 128>());
  else
    f(std::integral_constant<int, 160>());
}

}  // namespace

void tensor_forward(Stream stream, int64_t images, bf16* o, float* lse, const Operands<bf16>& in) {
  const Sizes& s = in.s;
  with_width(s.width, [&](auto d) {
    launch("attention_forward", forward_kernel<d()>,
           Grid{blocks(s.queries, kRows), unsigned(s.heads), unsigned(images)}, kThreads,
           kForwardBytes<d()>, stream, o, lse, in.q, in.k, in.v, s);
  });
}

void tensor_backward(Stream stream,
                     int64_t images,
                     const Operands<bf16>& in,
                     const Gradients<bf16>& g) {
  const Sizes& s = in.s;
  with_width(s.width, [&](auto d) {
    auto start = [&](const char* name, auto kernel, int64_t rows) {
      launch(name, kernel, Grid{blocks(rows, kRows), unsigned(s.heads), unsigned(images)}, kThreads,
             BackwardTiles<d()>::bytes(), stream, in, g);
    };
    if (g.dq) start("attention_backward_query", backward_query_kernel<d()>, s.queries);
    if (g.dk || g.dv) start("attention_backward_key", backward_key_kernel<d()>, s.keys);
  });
}

}  // namespace spindle::cuda::flash_attention
