// Backward of attention by products of blocks (attention.cc), on transposed scores (keys by
// queries): then K, V, P and dS are left-hand sides as they lie, and only dS may have to be
// transposed, for dQ.
#include "kernels/cpu/attention_lanes.h"
#include "kernels/cpu/attention_products.h"
#include "kernels/cpu/attention_tasks.h"
#include "kernels/cpu/operators.h"

namespace spindle::cpu {

namespace {

// Chosen by measuring, like forward's.
constexpr int64_t kQueries = 128, kKeys = 192;

struct Sizes {
  int64_t blocks;        // of queries
  int64_t block_bytes;   // of a block's packed queries
  int64_t key_bytes;     // of a block's packed keys
  int64_t ldq, ldk, ld;  // queries and keys of a block, a head's width
  bool bf16, to_queries;
};

// What a task's blocks of keys and queries need.
struct Tile {
  std::byte* packed;   // q^T, dO^T, q and dO of every block of queries
  std::byte* keys;     // packed by rows, for dq
  float *s, *dp;       // scores and their gradient (ldk, ldq)
  std::byte *p, *ds;   // of the activations' type; in float32 they overwrite s and dp
  std::byte* dst;      // dS transposed, of bfloat16
  float* dq;           // (queries, ld)
  float *dk, *dv;      // (ldk, ld)
  float *lse, *delta;  // of a query
  float* row;          // two of a head
  const void **k_rows, **v_rows, **p_rows, **ds_rows, **dst_rows;  // left-hand sides

  Tile(Carve& from, const Sizes& z) {
    const int64_t scores = z.ldk * z.ldq;
    packed = from.take<std::byte>(z.blocks * z.block_bytes);
    keys = from.take<std::byte>(z.key_bytes);
    s = from.take<float>(scores);
    dp = from.take<float>(scores);
    p = z.bf16 ? from.take<std::byte>(scores * 2) : reinterpret_cast<std::byte*>(s);
    ds = z.bf16 ? from.take<std::byte>(scores * 2) : reinterpret_cast<std::byte*>(dp);
    dst = from.take<std::byte>(z.bf16 ? scores * 2 : 0);
    dq = from.take<float>(z.to_queries ? z.blocks * kQueries * z.ld : 0);
    dk = from.take<float>(z.ldk * z.ld);
    dv = from.take<float>(z.ldk * z.ld);
    lse = from.take<float>(z.blocks * z.ldq);
    delta = from.take<float>(z.blocks * z.ldq);
    row = from.take<float>(2 * z.ld);
    k_rows = from.take<const void*>(z.ldk);
    v_rows = from.take<const void*>(z.ldk);
    p_rows = from.take<const void*>(z.ldk);
    ds_rows = from.take<const void*>(z.ldk);
    dst_rows = from.take<const void*>(z.ldq);
  }
};

struct Backward {
  CpuContext& cpu;
  const AttentionBackward& op;
  HeadProducts work{cpu.simd, op.q, op.args};
  int64_t tq = op.q.dim(1), tk = op.k.dim(1), heads = op.args.heads, units = op.q.dim(0) * heads;
  int64_t d = work.d, ld = work.ld, key_blocks = divide_up(tk, kKeys),
          query_blocks = divide_up(tq, kQueries);
  int64_t ldq = std::min(kQueries, round_up(tq, cpu.simd.width)),
          ldk = std::min(kKeys, round_up(tk, 2 * cpu.simd.width));
  int64_t t_bytes = work.packed(d, ldq), r_bytes = work.packed(ldq, ld),
          block_bytes = 2 * (t_bytes + r_bytes);

  // Queries of a block, which is the b-th of a task.
  struct Queries {
    int64_t b, first, count;
  };
  Queries queries(const GradientTask& task, int64_t b) const {
    int64_t first = (task.queries.begin + b) * kQueries;
    return {b, first, std::min(kQueries, tq - first)};
  }
  char* row(const Tensor& t, int64_t unit, int64_t i) const {
    return work.row(t, unit / heads, unit % heads, i);
  }

  void pack(const GradientTask& task, const Queries& q, const Tile& tile) const {
    const char *q_first = row(op.q, task.unit, q.first),
               *do_first = row(op.d_o, task.unit, q.first);
    std::byte* to = tile.packed + q.b * block_bytes;
    work.pack_transposed(to, q_first, q.count);
    work.pack_transposed(to + t_bytes, do_first, q.count);
    if (task.to_keys) {
      work.pack_rows(to + 2 * t_bytes, q_first, q.count);
      work.pack_rows(to + 2 * t_bytes + r_bytes, do_first, q.count);
    }
    float *lse = tile.lse + q.b * ldq, *delta = tile.delta + q.b * ldq;
    for (int64_t i = 0; i < ldq; ++i) {
      // No weight for what pads.
      lse[i] = i < q.count ? op.lse.f32()[task.unit * tq + q.first + i] : 1e30f;
      if (i >= q.count) {
        delta[i] = 0;
        continue;
      }
      const char *o = row(op.o, task.unit, q.first + i), *d_o = do_first + i * work.c * work.size;
      if (work.bf16) {
        cpu.simd.to_f32(tile.row, reinterpret_cast<const uint16_t*>(d_o), d);
        cpu.simd.to_f32(tile.row + ld, reinterpret_cast<const uint16_t*>(o), d);
        delta[i] = cpu.simd.dot(tile.row, tile.row + ld, d);
      } else {
        delta[i] =
            cpu.simd.dot(reinterpret_cast<const float*>(d_o), reinterpret_cast<const float*>(o), d);
      }
    }
  }

  // Adds what a block of keys, from k0 on, and a block of queries give each other.
  void add(const GradientTask& task, const Queries& q, int64_t k0, const Tile& t) const {
    int64_t keys = std::min(kKeys, tk - k0), padded = round_up(q.count, cpu.simd.width);
    const std::byte* packed = t.packed + q.b * block_bytes;
    work.multiply(t.s, ldq, t.k_rows, keys, d, packed, padded, false);
    work.multiply(t.dp, ldq, t.v_rows, keys, d, packed + t_bytes, padded, false);
    cpu.simd.softmax_gradient(t.p, t.ds, t.s, t.dp, keys, padded, ldq, work.scale,
                              t.lse + q.b * ldq, t.delta + q.b * ldq,
                              op.args.causal ? k0 - q.first : -keys, work.bf16);
    if (task.to_keys) {
      work.multiply(t.dv, ld, t.p_rows, keys, q.count, packed + 2 * t_bytes + r_bytes, ld, true);
      work.multiply(t.dk, ld, t.ds_rows, keys, q.count, packed + 2 * t_bytes, ld, true);
    }
    if (task.to_queries)
      work.add_to_queries(t.dq + q.b * kQueries * ld, t.ds, ldq, keys, q.count, t.keys, t.dst, ldk,
                          t.dst_rows);
  }

  void gradients(const GradientTask& task, int thread) const {
    const int64_t head = task.unit % heads, image = task.unit / heads,
                  blocks = task.queries.count();
    Tile t = tile_in_scratch<Tile>(
        cpu, thread,
        Sizes{blocks, block_bytes, work.packed(ldk, ld), ldq, ldk, ld, work.bf16, task.to_queries});
    work.point(t.p_rows, t.p, ldq, ldk);
    work.point(t.ds_rows, t.ds, ldq, ldk);
    work.point(t.dst_rows, t.dst, ldk, ldq);
    for (int64_t b = 0; b < blocks; ++b) pack(task, queries(task, b), t);
    if (task.to_queries) std::fill_n(t.dq, blocks * kQueries * ld, 0.0f);
    for (int64_t kb = task.keys.begin; kb < task.keys.end; ++kb) {
      int64_t k0 = kb * kKeys, keys = std::min(kKeys, tk - k0);
      work.point(t.k_rows, work.row(op.k, image, head, k0), work.c, keys);
      work.point(t.v_rows, work.row(op.v, image, head, k0), work.c, keys);
      if (task.to_queries) work.pack_rows(t.keys, work.row(op.k, image, head, k0), keys);
      std::fill_n(t.dk, keys * ld, 0.0f);
      std::fill_n(t.dv, keys * ld, 0.0f);
      for (int64_t b = 0; b < blocks; ++b) {
        Queries q = queries(task, b);
        if (op.args.causal && k0 > q.first + q.count - 1) continue;
        add(task, q, k0, t);
      }
      if (task.to_keys && op.dk) work.store(op.dk, t.dk, image, head, k0, keys);
      if (task.to_keys && op.dv) work.store(op.dv, t.dv, image, head, k0, keys);
    }
    if (task.to_queries) {
      int64_t first = task.queries.begin * kQueries;
      work.store(op.dq, t.dq, image, head, first,
                 std::min(tq, task.queries.end * kQueries) - first);
    }
  }
};

}  // namespace

void run(CpuContext& cpu, const AttentionBackward& op) {
  if (!op.dq && !op.dk && !op.dv) return;
  if (attention_in_lanes(cpu, op.q, op.args)) return attention_in_lanes_backward(cpu, op);
  const Backward backward{cpu, op};
  run_gradient_tasks(
      cpu.threads,
      {.units = backward.units,
       .key_blocks = backward.key_blocks,
       .query_blocks = backward.query_blocks,
       .to_keys = op.dk || op.dv,
       .to_queries = bool(op.dq)},
      [&](const GradientTask& task, int thread) { backward.gradients(task, thread); });
}

}  // namespace spindle::cpu
