// Attention by products of blocks, where queries are not kept in lanes (attention_lanes.cc), with
// an online softmax (the idea of FlashAttention, Dao et al., arXiv 2205.14135): scores of a block
// live in the cache and never reach memory. Every product runs on the tile kernels in the
// activations' type and sums in float32; so do the softmax's statistics. Backward works on
// transposed scores (keys by queries): then K, V, P and dS are left-hand sides as they lie, and
// only dS may have to be transposed, for dQ.
#include <cmath>
#include <cstring>

#include "kernels/cpu/cpu_kernels.h"

namespace spindle::cpu {

namespace {

// Chosen by measuring (SD 1.5's and the demo's shapes: speed is flat around them); scores of a
// block stay in the second-level cache.
constexpr int64_t kQueries = 96, kKeys = 512;                   // forward
constexpr int64_t kGradientQueries = 128, kGradientKeys = 192;  // backward

// Carves arrays out of one scratch block; `bytes` is how much they need when there is no block yet.
struct Carve {
  std::byte* base = nullptr;
  int64_t bytes = 0;
  template <class T>
  T* take(int64_t n) {
    T* p = reinterpret_cast<T*>(base + bytes);
    bytes += round_up(n * int64_t(sizeof(T)), 64);
    return p;
  }
};

}  // namespace

// Operands of one head, and products of them.
class AttentionWork {
 public:
  AttentionWork(const CpuKernels& kernels, const Tensor& q, const AttentionArgs& args)
      : simd(kernels.simd_),
        bf16(is_bf16(q)),
        size(bf16 ? 2 : 4),
        c(q.dim(2)),
        d(c / args.heads),
        ld(round_up(d, simd.width)),
        panel(int64_t(simd.width) * simd.max_vectors) {
    scale = float(args.scale != 0 ? args.scale : 1.0 / std::sqrt(double(d)));
  }
  const Simd& simd;
  bool bf16;
  int64_t size;   // bytes of an element
  int64_t c, d;   // width of all heads, of one
  int64_t ld;     // of one, padded
  int64_t panel;  // columns of a full panel
  float scale;

  // A row of a (B, T, C) tensor's head.
  char* row(const Tensor& t, int64_t image, int64_t head, int64_t i) const {
    return at(t.raw(), (image * t.dim(1) + i) * c + head * d, t.dtype());
  }
  void point(const void** out, const void* first, int64_t stride, int64_t rows) const {
    for (int64_t i = 0; i < rows; ++i) {
      out[i] = static_cast<const char*>(first) + i * stride * size;
      __builtin_prefetch(out[i]);  // rows of a head lie apart: their misses overlap here
    }
  }
  // Bytes of a packed right-hand side, k by n.
  int64_t packed(int64_t k, int64_t n) const {
    return (bf16 ? (k + 1) / 2 : k) * round_up(n, simd.width) * 4;
  }
  // Rows of a head as the right-hand side whose k is the rows.
  void pack_rows(std::byte* to, const char* x, int64_t rows) const {
    for (int64_t p = 0; p < ld; p += panel) {
      int64_t width = std::min(panel, ld - p), n = std::min(width, d - p);
      if (bf16) {
        for (int64_t i = 0; i < rows; i += 2, to += width * 4) {
          const uint16_t* even = reinterpret_cast<const uint16_t*>(x) + i * c + p;
          simd.interleave(reinterpret_cast<uint16_t*>(to), even, i + 1 < rows ? even + c : nullptr,
                          n, width);
        }
      } else {
        for (int64_t i = 0; i < rows; ++i, to += width * 4) {
          std::memcpy(to, x + (i * c + p) * 4, size_t(n) * 4);
          std::memset(to + n * 4, 0, size_t(width - n) * 4);
        }
      }
    }
  }
  // Rows of a head as the right-hand side whose columns are the rows, and k the head's width.
  void pack_transposed(std::byte* to, const char* x, int64_t rows) const {
    int64_t padded = round_up(rows, simd.width), halves = size / 2;
    for (int64_t p = 0; p < padded; p += panel) {
      int64_t width = std::min(panel, padded - p);
      simd.transpose_pairs(reinterpret_cast<uint32_t*>(to), width,
                           reinterpret_cast<const uint16_t*>(x) + p * c * halves, c * halves,
                           std::min(width, rows - p), d * halves, width);
      to += packed(d, width);
    }
  }
  // out (rows, ldc) (+)= a (rows of pointers to k elements) * b, packed
  void multiply(float* out,
                int64_t ldc,
                const void* const* a,
                int64_t rows,
                int64_t k,
                const std::byte* b,
                int64_t columns,
                bool accumulate) const {
    auto gemm = bf16 ? simd.gemm_bf16 : simd.gemm_f32;
    for (int64_t p = 0; p < columns; p += panel) {
      int64_t width = std::min(panel, columns - p), vectors = width / simd.width,
              tile = simd.rows_for[vectors];
      for (int64_t r = 0; r < rows; r += tile)
        gemm({a + r, 1, std::min(tile, rows - r), k, b, width, vectors, out + r * ldc + p, ldc,
              accumulate});
      b += packed(k, width);
    }
  }
  // dq (queries, ld) += dS^T (keys, ldq) transposed * K, packed by rows. Pairs of bfloat16 lie
  // along keys, so dS is transposed for them, into `t` with its rows at t_rows; float32 is summed
  // key by key as it lies.
  void add_to_queries(float* dq,
                      const std::byte* ds,
                      int64_t ldq,
                      int64_t keys,
                      int64_t queries,
                      const std::byte* k,
                      std::byte* t,
                      int64_t ldk,
                      const void* const* t_rows) const {
    if (bf16) {
      simd.transpose_bf16(reinterpret_cast<uint16_t*>(t), ldk,
                          reinterpret_cast<const uint16_t*>(ds), ldq, keys, queries);
      multiply(dq, ld, t_rows, queries, keys, k, ld, true);
      return;
    }
    for (int64_t p = 0; p < ld; p += panel) {
      int64_t width = std::min(panel, ld - p), vectors = width / simd.width,
              tile = simd.rows_for[vectors];
      for (int64_t r = 0; r < queries; r += tile) {
        OuterRun run{reinterpret_cast<const float*>(ds) + r, reinterpret_cast<const float*>(k),
                     keys};
        simd.outer_f32(
            {&run, 1, ldq, width, std::min(tile, queries - r), vectors, dq + r * ld + p, ld, true});
      }
      k += packed(keys, width);
    }
  }
  void store(const GradSlot& slot,
             const float* x,
             int64_t image,
             int64_t head,
             int64_t first,
             int64_t rows) const {
    for (int64_t i = 0; i < rows; ++i)
      simd.store_row({row(slot.tensor, image, head, first + i), x + i * ld, nullptr, nullptr,
                      nullptr, d, slot.accumulate},
                     bf16);
  }
};

void CpuKernels::run(const AttentionForward& op) {
  if (attention_in_lanes(op.q, op.args))
    return attention_forward_in_lanes(op.o, op.lse, op.q, op.k, op.v, op.args);
  int64_t batch = op.q.dim(0), tq = op.q.dim(1), tk = op.k.dim(1), heads = op.args.heads,
          units = batch * heads;
  AttentionWork work(*this, op.q, op.args);
  int64_t d = work.d, ld = work.ld, key_blocks = divide_up(tk, kKeys),
          query_blocks = divide_up(tq, kQueries);
  int64_t block = std::min(kKeys, round_up(tk, 2 * simd_.width)), k_bytes = work.packed(d, block),
          v_bytes = work.packed(block, ld);
  // A task has all queries of a head, unless heads are too few to share out: then K and V are
  // packed once for all of its tasks.
  int64_t pieces =
      units >= 2 * threads_.threads() ? 1 : std::min(query_blocks, 4 * int64_t(threads_.threads()));
  auto pack = [&](std::byte* to, int64_t unit, int64_t b) {
    int64_t head = unit % heads, image = unit / heads, k0 = b * kKeys,
            keys = std::min(kKeys, tk - k0);
    work.pack_transposed(to + b * (k_bytes + v_bytes), work.row(op.k, image, head, k0), keys);
    work.pack_rows(to + b * (k_bytes + v_bytes) + k_bytes, work.row(op.v, image, head, k0), keys);
  };
  int64_t head_bytes = key_blocks * (k_bytes + v_bytes);
  std::byte* shared = nullptr;
  if (pieces > 1) {
    shared = shared_scratch(units * head_bytes);
    threads_.run(units * key_blocks, [&](int64_t task, int) {
      pack(shared + task / key_blocks * head_bytes, task / key_blocks, task % key_blocks);
    });
  }
  threads_.run(units * pieces, [&](int64_t task, int thread) {
    int64_t unit = task / pieces, piece = task % pieces, head = unit % heads, image = unit / heads;
    auto carve = [&](Carve& from) {
      struct {
        std::byte *packed, *p;
        float *s, *o, *max, *sum, *correction;
        int64_t* valid;
        const void **q_rows, **p_rows;
      } a{};
      a.packed = from.take<std::byte>(shared ? 0 : head_bytes);
      a.s = from.take<float>(kQueries * block);
      a.p = work.bf16 ? from.take<std::byte>(kQueries * block * 2)
                      : reinterpret_cast<std::byte*>(a.s);
      a.o = from.take<float>(kQueries * ld);
      a.max = from.take<float>(kQueries);
      a.sum = from.take<float>(kQueries);
      a.correction = from.take<float>(kQueries);
      a.valid = from.take<int64_t>(kQueries);
      a.q_rows = from.take<const void*>(kQueries);
      a.p_rows = from.take<const void*>(kQueries);
      return a;
    };
    Carve needed;
    carve(needed);
    Carve memory{scratch(thread, needed.bytes)};
    auto a = carve(memory);
    if (shared)
      a.packed = shared + unit * head_bytes;
    else
      for (int64_t b = 0; b < key_blocks; ++b) pack(a.packed, unit, b);
    for (int64_t qb = query_blocks * piece / pieces; qb < query_blocks * (piece + 1) / pieces;
         ++qb) {
      int64_t q0 = qb * kQueries, count = std::min(kQueries, tq - q0);
      work.point(a.q_rows, work.row(op.q, image, head, q0), work.c, count);
      std::fill_n(a.max, count, -INFINITY);
      std::fill_n(a.sum, count, 0.0f);
      for (int64_t b = 0; b < key_blocks; ++b) {
        int64_t k0 = b * kKeys, keys = std::min(kKeys, tk - k0),
                padded = round_up(keys, simd_.width);
        if (op.args.causal && k0 > q0 + count - 1) break;
        const std::byte* packed = a.packed + b * (k_bytes + v_bytes);
        work.multiply(a.s, padded, a.q_rows, count, d, packed, padded, false);
        for (int64_t i = 0; i < count; ++i)
          a.valid[i] = op.args.causal ? std::min(keys, q0 + i + 1 - k0) : keys;
        simd_.softmax_block(a.p, a.s, count, keys, padded, work.scale, a.max, a.sum, a.correction,
                            a.valid, work.bf16);
        if (b > 0) simd_.scale_rows(a.o, a.correction, count, ld, ld);
        work.point(a.p_rows, a.p, padded, count);
        work.multiply(a.o, ld, a.p_rows, count, keys, packed + k_bytes, ld, b > 0);
      }
      for (int64_t i = 0; i < count; ++i) {
        a.correction[i] = 1.0f / a.sum[i];
        op.lse.f32()[unit * tq + q0 + i] = a.max[i] + std::log(a.sum[i]);
      }
      simd_.scale_rows(a.o, a.correction, count, ld, ld);
      work.store({op.o, false}, a.o, image, head, q0, count);
    }
  });
}

void CpuKernels::run(const AttentionBackward& op) {
  if (!op.dq && !op.dk && !op.dv) return;
  if (attention_in_lanes(op.q, op.args))
    return attention_backward_in_lanes(op.dq, op.dk, op.dv, op.d_o, op.o, op.lse, op.q, op.k, op.v,
                                       op.args);
  int64_t batch = op.q.dim(0), tq = op.q.dim(1), tk = op.k.dim(1), heads = op.args.heads,
          units = batch * heads;
  AttentionWork work(*this, op.q, op.args);
  int64_t d = work.d, ld = work.ld, key_blocks = divide_up(tk, kGradientKeys),
          query_blocks = divide_up(tq, kGradientQueries);
  int64_t ldq = std::min(kGradientQueries, round_up(tq, simd_.width)),
          ldk = std::min(kGradientKeys, round_up(tk, 2 * simd_.width));
  int64_t t_bytes = work.packed(d, ldq), r_bytes = work.packed(ldq, ld),
          block_bytes = 2 * (t_bytes + r_bytes);
  // The gradients of a range of keys and of a range of queries. Every block's products are added in
  // the same order, however ranges are cut.
  auto gradients = [&](int64_t unit, int64_t kb0, int64_t kb1, int64_t qb0, int64_t qb1,
                       bool to_keys, bool to_queries, int thread) {
    int64_t head = unit % heads, image = unit / heads, blocks = qb1 - qb0;
    auto carve = [&](Carve& from) {
      struct {
        std::byte *packed, *kp, *p, *ds, *dst;
        float *s, *dp, *dq, *dk, *dv, *lse, *delta, *row;
        const void **k_rows, **v_rows, **p_rows, **ds_rows, **dst_rows;
      } a{};
      a.packed = from.take<std::byte>(blocks * block_bytes);
      a.kp = from.take<std::byte>(work.packed(ldk, ld));
      a.s = from.take<float>(ldk * ldq);
      a.dp = from.take<float>(ldk * ldq);
      a.p = work.bf16 ? from.take<std::byte>(ldk * ldq * 2) : reinterpret_cast<std::byte*>(a.s);
      a.ds = work.bf16 ? from.take<std::byte>(ldk * ldq * 2) : reinterpret_cast<std::byte*>(a.dp);
      a.dst = from.take<std::byte>(work.bf16 ? ldk * ldq * 2 : 0);
      a.dq = from.take<float>(to_queries ? blocks * kGradientQueries * ld : 0);
      a.dk = from.take<float>(ldk * ld);
      a.dv = from.take<float>(ldk * ld);
      a.lse = from.take<float>(blocks * ldq);
      a.delta = from.take<float>(blocks * ldq);
      a.row = from.take<float>(2 * ld);
      a.k_rows = from.take<const void*>(ldk);
      a.v_rows = from.take<const void*>(ldk);
      a.p_rows = from.take<const void*>(ldk);
      a.ds_rows = from.take<const void*>(ldk);
      a.dst_rows = from.take<const void*>(ldq);
      return a;
    };
    Carve needed;
    carve(needed);
    Carve memory{scratch(thread, needed.bytes)};
    auto a = carve(memory);
    work.point(a.p_rows, a.p, ldq, ldk);
    work.point(a.ds_rows, a.ds, ldq, ldk);
    work.point(a.dst_rows, a.dst, ldk, ldq);
    for (int64_t b = 0; b < blocks; ++b) {
      int64_t q0 = (qb0 + b) * kGradientQueries, count = std::min(kGradientQueries, tq - q0);
      const char *q_first = work.row(op.q, image, head, q0),
                 *do_first = work.row(op.d_o, image, head, q0);
      std::byte* to = a.packed + b * block_bytes;
      work.pack_transposed(to, q_first, count);
      work.pack_transposed(to + t_bytes, do_first, count);
      if (to_keys) {
        work.pack_rows(to + 2 * t_bytes, q_first, count);
        work.pack_rows(to + 2 * t_bytes + r_bytes, do_first, count);
      }
      float *row_lse = a.lse + b * ldq, *delta = a.delta + b * ldq;
      for (int64_t i = 0; i < ldq; ++i) {
        row_lse[i] =
            i < count ? op.lse.f32()[unit * tq + q0 + i] : 1e30f;  // no weight for what pads
        if (i >= count) {
          delta[i] = 0;
        } else if (work.bf16) {
          simd_.to_f32(a.row, reinterpret_cast<const uint16_t*>(do_first) + i * work.c, d);
          simd_.to_f32(a.row + ld,
                       reinterpret_cast<const uint16_t*>(work.row(op.o, image, head, q0 + i)), d);
          delta[i] = simd_.dot(a.row, a.row + ld, d);
        } else {
          delta[i] =
              simd_.dot(reinterpret_cast<const float*>(do_first) + i * work.c,
                        reinterpret_cast<const float*>(work.row(op.o, image, head, q0 + i)), d);
        }
      }
    }
    if (to_queries) std::fill_n(a.dq, blocks * kGradientQueries * ld, 0.0f);
    for (int64_t kb = kb0; kb < kb1; ++kb) {
      int64_t k0 = kb * kGradientKeys, keys = std::min(kGradientKeys, tk - k0);
      work.point(a.k_rows, work.row(op.k, image, head, k0), work.c, keys);
      work.point(a.v_rows, work.row(op.v, image, head, k0), work.c, keys);
      if (to_queries) work.pack_rows(a.kp, work.row(op.k, image, head, k0), keys);
      std::fill_n(a.dk, keys * ld, 0.0f);
      std::fill_n(a.dv, keys * ld, 0.0f);
      for (int64_t b = 0; b < blocks; ++b) {
        int64_t q0 = (qb0 + b) * kGradientQueries, count = std::min(kGradientQueries, tq - q0),
                padded = round_up(count, simd_.width);
        if (op.args.causal && k0 > q0 + count - 1) continue;
        const std::byte* packed = a.packed + b * block_bytes;
        work.multiply(a.s, ldq, a.k_rows, keys, d, packed, padded, false);
        work.multiply(a.dp, ldq, a.v_rows, keys, d, packed + t_bytes, padded, false);
        simd_.softmax_gradient(a.p, a.ds, a.s, a.dp, keys, padded, ldq, work.scale, a.lse + b * ldq,
                               a.delta + b * ldq, op.args.causal ? k0 - q0 : -keys, work.bf16);
        if (to_keys) {
          work.multiply(a.dv, ld, a.p_rows, keys, count, packed + 2 * t_bytes + r_bytes, ld, true);
          work.multiply(a.dk, ld, a.ds_rows, keys, count, packed + 2 * t_bytes, ld, true);
        }
        if (to_queries)
          work.add_to_queries(a.dq + b * kGradientQueries * ld, a.ds, ldq, keys, count, a.kp, a.dst,
                              ldk, a.dst_rows);
      }
      if (to_keys && op.dk) work.store(op.dk, a.dk, image, head, k0, keys);
      if (to_keys && op.dv) work.store(op.dv, a.dv, image, head, k0, keys);
    }
    if (to_queries)
      work.store(op.dq, a.dq, image, head, qb0 * kGradientQueries,
                 std::min(tq, qb1 * kGradientQueries) - qb0 * kGradientQueries);
  };
  bool to_keys = op.dk || op.dv, to_queries = bool(op.dq);
  int64_t threads = threads_.threads();
  // Too few heads for the threads: keys and queries are shared out apart, which computes the scores
  // twice but adds nothing up across tasks.
  if (units * 10 < divide_up(units, threads) * threads * 7 &&
      std::max(key_blocks, query_blocks) > 1) {
    int64_t k_pieces = to_keys ? std::min(key_blocks, 2 * threads) : 0,
            q_pieces = to_queries ? std::min(query_blocks, 2 * threads) : 0,
            pieces = k_pieces + q_pieces;
    threads_.run(units * pieces, [&](int64_t task, int thread) {
      int64_t piece = task % pieces, i = piece - k_pieces;
      if (i < 0)
        gradients(task / pieces, key_blocks * piece / k_pieces, key_blocks * (piece + 1) / k_pieces,
                  0, query_blocks, true, false, thread);
      else
        gradients(task / pieces, 0, key_blocks, query_blocks * i / q_pieces,
                  query_blocks * (i + 1) / q_pieces, false, true, thread);
    });
  } else {
    threads_.run(units, [&](int64_t unit, int thread) {
      gradients(unit, 0, key_blocks, 0, query_blocks, to_keys, to_queries, thread);
    });
  }
}

}  // namespace spindle::cpu
