// Attention by products of blocks, where queries are not kept in lanes (attention_lanes.cc), with
// an online softmax (the idea of FlashAttention, Dao et al., arXiv 2205.14135): scores of a block
// live in the cache and never reach memory. Every product runs on the tile kernels in the
// activations' type and sums in float32; so do the softmax's statistics.
#include <cmath>

#include "kernels/cpu/attention_lanes.h"
#include "kernels/cpu/attention_products.h"
#include "kernels/cpu/attention_tasks.h"
#include "kernels/cpu/operators.h"

namespace spindle::cpu {

namespace {

// Chosen by measuring (SD 1.5's and the demo's shapes: speed is flat around them); scores of a
// block stay in the second-level cache.
constexpr int64_t kQueries = 96, kKeys = 512;

struct Sizes {
  int64_t packed_bytes, block, ld;  // packed keys and values; keys of a block; a head's width
  bool bf16;
};

// What one block of queries needs.
struct Tile {
  std::byte* packed;              // keys and values of the head, where they are not shared
  float* s;                       // scores (kQueries, block)
  std::byte* p;                   // probabilities; in float32 they overwrite the scores
  float* o;                       // (kQueries, ld)
  float *max, *sum, *correction;  // of a query
  int64_t* valid;                 // keys that a query sees
  const void **q_rows, **p_rows;  // left-hand sides

  Tile(Carve& from, const Sizes& sizes) {
    packed = from.take<std::byte>(sizes.packed_bytes);
    s = from.take<float>(kQueries * sizes.block);
    p = sizes.bf16 ? from.take<std::byte>(kQueries * sizes.block * 2)
                   : reinterpret_cast<std::byte*>(s);
    o = from.take<float>(kQueries * sizes.ld);
    max = from.take<float>(kQueries);
    sum = from.take<float>(kQueries);
    correction = from.take<float>(kQueries);
    valid = from.take<int64_t>(kQueries);
    q_rows = from.take<const void*>(kQueries);
    p_rows = from.take<const void*>(kQueries);
  }
};

struct Forward {
  CpuContext& cpu;
  const AttentionForward& op;
  HeadProducts work{cpu.simd, op.q, op.args};
  int64_t tq = op.q.dim(1), tk = op.k.dim(1), heads = op.args.heads, units = op.q.dim(0) * heads;
  int64_t key_blocks = divide_up(tk, kKeys), query_blocks = divide_up(tq, kQueries);
  int64_t block = std::min(kKeys, round_up(tk, 2 * cpu.simd.width));
  int64_t k_bytes = work.packed(work.d, block), v_bytes = work.packed(block, work.ld),
          head_bytes = key_blocks * (k_bytes + v_bytes);

  // A block of a head's keys and values.
  void pack(std::byte* to, int64_t unit, int64_t b) const {
    int64_t head = unit % heads, image = unit / heads, k0 = b * kKeys,
            keys = std::min(kKeys, tk - k0);
    work.pack_transposed(to + b * (k_bytes + v_bytes), work.row(op.k, image, head, k0), keys);
    work.pack_rows(to + b * (k_bytes + v_bytes) + k_bytes, work.row(op.v, image, head, k0), keys);
  }

  // One block of queries past all keys.
  void queries(int64_t unit, int64_t q0, const std::byte* packed_keys, const Tile& t) const {
    int64_t head = unit % heads, image = unit / heads, count = std::min(kQueries, tq - q0);
    work.point(t.q_rows, work.row(op.q, image, head, q0), work.c, count);
    std::fill_n(t.max, count, -INFINITY);
    std::fill_n(t.sum, count, 0.0f);
    for (int64_t b = 0; b < key_blocks; ++b) {
      int64_t k0 = b * kKeys, keys = std::min(kKeys, tk - k0),
              padded = round_up(keys, cpu.simd.width);
      if (op.args.causal && k0 > q0 + count - 1) break;
      const std::byte* packed = packed_keys + b * (k_bytes + v_bytes);
      work.multiply(t.s, padded, t.q_rows, count, work.d, packed, padded, false);
      for (int64_t i = 0; i < count; ++i)
        t.valid[i] = op.args.causal ? std::min(keys, q0 + i + 1 - k0) : keys;
      cpu.simd.softmax_block(t.p, t.s, count, keys, padded, work.scale, t.max, t.sum, t.correction,
                             t.valid, work.bf16);
      if (b > 0) cpu.simd.scale_rows(t.o, t.correction, count, work.ld, work.ld);
      work.point(t.p_rows, t.p, padded, count);
      work.multiply(t.o, work.ld, t.p_rows, count, keys, packed + k_bytes, work.ld, b > 0);
    }
    for (int64_t i = 0; i < count; ++i) {
      t.correction[i] = 1.0f / t.sum[i];
      op.lse.f32()[unit * tq + q0 + i] = t.max[i] + std::log(t.sum[i]);
    }
    cpu.simd.scale_rows(t.o, t.correction, count, work.ld, work.ld);
    work.store({op.o, false}, t.o, image, head, q0, count);
  }

  void run() const {
    // A task has all queries of a head, unless heads are too few to share out: then K and V are
    // packed once for all of its tasks.
    int64_t threads = cpu.threads.threads(),
            pieces = units >= 2 * threads ? 1 : std::min(query_blocks, 4 * threads);
    std::byte* shared = nullptr;
    if (pieces > 1) {
      shared = cpu.shared_scratch(units * head_bytes);
      cpu.threads.run(units * key_blocks, [&](int64_t task, int) {
        pack(shared + task / key_blocks * head_bytes, task / key_blocks, task % key_blocks);
      });
    }
    const Sizes sizes{shared ? 0 : head_bytes, block, work.ld, work.bf16};
    cpu.threads.run(units * pieces, [&](int64_t task, int thread) {
      int64_t unit = task / pieces, piece = task % pieces;
      Tile tile = tile_in_scratch<Tile>(cpu, thread, sizes);
      const std::byte* packed = shared ? shared + unit * head_bytes : tile.packed;
      if (!shared)
        for (int64_t b = 0; b < key_blocks; ++b) pack(tile.packed, unit, b);
      for (int64_t qb = query_blocks * piece / pieces; qb < query_blocks * (piece + 1) / pieces;
           ++qb)
        queries(unit, qb * kQueries, packed, tile);
    });
  }
};

}  // namespace

void run(CpuContext& cpu, const AttentionForward& op) {
  if (attention_in_lanes(cpu, op.q, op.args)) return attention_in_lanes_forward(cpu, op);
  Forward{cpu, op}.run();
}

}  // namespace spindle::cpu
