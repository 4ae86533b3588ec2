// Attention with queries in vector lanes (isa/attention_lanes.inl): every block of queries meets
// all keys of its head while scores and weights stay in the first-level cache. Keys and values are
// packed once per head.
#include "kernels/cpu/attention_lanes.h"

#include <cmath>

#include "kernels/cpu/attention_tasks.h"

namespace spindle::cpu {

namespace {

struct Heads {
  int64_t heads, units, tq, tk, c, d;  // units: heads of all images
  bool bf16;
  int64_t size;         // bytes of an element
  int64_t pair, depth;  // elements of a packed one; packed elements of a row
  float scale;

  Heads(const Tensor& q, const Tensor& k, const AttentionArgs& args, const Simd& simd)
      : heads(args.heads),
        units(q.dim(0) * heads),
        tq(q.dim(1)),
        tk(k.dim(1)),
        c(q.dim(2)),
        d(c / heads),
        bf16(is_bf16(q)),
        size(bf16 ? 2 : 4),
        pair(bf16 && simd.attention_pairs ? 2 : 1),
        depth(divide_up(d, pair)),
        scale(float(args.scale != 0 ? args.scale : 1.0 / std::sqrt(double(d)))) {}
  // Row i of a head.
  char* row(const Tensor& t, int64_t unit, int64_t i) const {
    return static_cast<char*>(t.raw()) +
           ((unit / heads * t.dim(1) + i) * c + unit % heads * d) * size;
  }
  // Heads of a task: rows of neighbours that share a cache line belong to one thread.
  int64_t together(int64_t threads) const {
    const int64_t bytes = d * size, n = bytes < 64 && 64 % bytes == 0 ? 64 / bytes : 1;
    return heads % n == 0 && units / n >= 4 * threads ? n : 1;
  }
};

}  // namespace

// In float32 few queries of narrow heads stay with products of blocks: there is nothing to gain,
// and a recorded training step of a tiny model, where Adam divides gradients of rounding errors by
// their size, follows the last bit of those sums. So do heads as wide as the VAE's one, whose
// products are nearly all of the time.
static constexpr int64_t kFewestFloats = 512,
                         kWidestHead = 256;  // elements of all queries of a head; of one

bool attention_in_lanes(const CpuContext& cpu, const Tensor& q, const AttentionArgs& args) {
  const int64_t width = q.dim(2) / args.heads;
  return args.scale >= 0 &&
         (is_bf16(q) ? cpu.simd.attention_lanes
                     : q.dim(1) * width >= kFewestFloats && width <= kWidestHead);
}

void attention_in_lanes_forward(CpuContext& cpu, const AttentionForward& op) {
  const Heads at(op.q, op.k, op.args, cpu.simd);
  const int64_t tq = at.tq, tk = at.tk, d = at.d, c = at.c, units = at.units,
                most = cpu.simd.attention_queries, blocks = divide_up(tq, most);
  const int64_t k_floats = round_up(tk * at.depth, 16),
                head_floats = k_floats + round_up(divide_up(tk, at.pair) * d, 16);
  // A task has all queries of its heads, unless heads are too few to share out: then keys and
  // values are packed for all of a head's tasks.
  const int64_t pieces = units >= 2 * cpu.threads.threads()
                             ? 1
                             : std::min(blocks, 4 * int64_t(cpu.threads.threads())),
                together = pieces > 1 ? 1 : at.together(cpu.threads.threads());
  auto pack = [&](float* to, int64_t unit) {
    cpu.simd.attention_rows(to, at.row(op.k, unit, 0), c, tk, d, at.bf16);
    cpu.simd.attention_row_pairs(to + k_floats, at.row(op.v, unit, 0), c, tk, d, d, at.bf16);
  };
  float* shared = nullptr;
  if (pieces > 1) {
    shared = reinterpret_cast<float*>(cpu.shared_scratch(units * head_floats * 4));
    cpu.threads.run(units, [&](int64_t unit, int) { pack(shared + unit * head_floats, unit); });
  }
  cpu.threads.run(units / together * pieces, [&](int64_t task, int thread) {
    const int64_t own = shared ? 0 : head_floats, piece = task % pieces;
    float* memory = reinterpret_cast<float*>(
        cpu.scratch(thread, (own + most * (2 * d + cpu.simd.attention_keys)) * 4));
    for (int64_t unit = task / pieces * together; unit < (task / pieces + 1) * together; ++unit) {
      const float* packed = shared ? shared + unit * head_floats : memory;
      if (!shared) pack(memory, unit);
      for (int64_t first = blocks * piece / pieces * most,
                   end = std::min(tq, blocks * (piece + 1) / pieces * most);
           first < end; first += most)
        cpu.simd.attention_forward({.q = at.row(op.q, unit, first),
                                    .o = at.row(op.o, unit, first),
                                    .lse = op.lse.f32() + unit * tq + first,
                                    .stride = c,
                                    .queries = std::min(most, end - first),
                                    .d = d,
                                    .first = first,
                                    .k = packed,
                                    .v = packed + k_floats,
                                    .keys = tk,
                                    .scale = at.scale,
                                    .causal = op.args.causal,
                                    .scratch = memory + own},
                                   at.bf16);
    }
  });
}

void attention_in_lanes_backward(CpuContext& cpu, const AttentionBackward& op) {
  const Heads at(op.q, op.k, op.args, cpu.simd);
  const int64_t tq = at.tq, tk = at.tk, d = at.d, c = at.c, units = at.units,
                ld = round_up(d, cpu.simd.width), threads = cpu.threads.threads();
  const int64_t lanes = cpu.simd.attention_queries, most_keys = cpu.simd.attention_keys,
                key_blocks = divide_up(tk, most_keys), query_blocks = divide_up(tq, lanes);
  const int64_t per_block = lanes * (2 * at.depth + 2 + 2 * ld / at.pair);  // packed queries
  auto gradients = [&](const GradientTask& task, int thread) {
    const int64_t unit = task.unit;
    const int64_t blocks = task.queries.count(), keys_floats = most_keys * (2 * at.depth + d),
                  sums = most_keys * ld;
    float* packed = reinterpret_cast<float*>(
        cpu.scratch(thread, (blocks * (per_block + lanes * d) + keys_floats + 2 * sums +
                             2 * lanes * most_keys + cpu.simd.width * d) *
                                4));
    float *dq_lanes = packed + blocks * per_block, *key_rows = dq_lanes + blocks * lanes * d,
          *value_rows = key_rows + most_keys * at.depth,
          *key_pairs = value_rows + most_keys * at.depth;
    float *dk_rows = key_pairs + most_keys * d, *dv_rows = dk_rows + sums, *work = dv_rows + sums,
          *buffer = work + 2 * lanes * most_keys;
    // What a block of queries has, one after the other.
    auto queries = [&](int64_t b) {
      struct {
        float *q, *d_o, *lse, *delta, *q_rows, *do_rows;
      } block{};
      block.q = packed + b * per_block;
      block.d_o = block.q + lanes * at.depth;
      block.lse = block.d_o + lanes * at.depth;
      block.delta = block.lse + lanes;
      block.q_rows = block.delta + lanes;
      block.do_rows = block.q_rows + lanes / at.pair * ld;
      return block;
    };
    for (int64_t b = 0; b < blocks; ++b) {
      const int64_t first = (task.queries.begin + b) * lanes;
      auto to = queries(b);
      cpu.simd.attention_gradient_queries({.q = at.row(op.q, unit, first),
                                           .o = at.row(op.o, unit, first),
                                           .d_o = at.row(op.d_o, unit, first),
                                           .lse = op.lse.f32() + unit * tq + first,
                                           .stride = c,
                                           .queries = std::min(lanes, tq - first),
                                           .d = d,
                                           .ld = ld,
                                           .q_lanes = to.q,
                                           .do_lanes = to.d_o,
                                           .q_rows = task.to_keys ? to.q_rows : nullptr,
                                           .do_rows = to.do_rows,
                                           .lse_lanes = to.lse,
                                           .delta = to.delta,
                                           .buffer = buffer},
                                          at.bf16);
    }
    if (task.to_queries) std::fill_n(dq_lanes, blocks * lanes * d, 0.0f);
    for (int64_t kb = task.keys.begin; kb < task.keys.end; ++kb) {
      const int64_t k0 = kb * most_keys, keys = std::min(most_keys, tk - k0);
      cpu.simd.attention_rows(key_rows, at.row(op.k, unit, k0), c, keys, d, at.bf16);
      cpu.simd.attention_rows(value_rows, at.row(op.v, unit, k0), c, keys, d, at.bf16);
      if (task.to_queries)
        cpu.simd.attention_row_pairs(key_pairs, at.row(op.k, unit, k0), c, keys, d, d, at.bf16);
      if (task.to_keys) std::fill_n(dk_rows, 2 * sums, 0.0f);
      for (int64_t b = 0; b < blocks; ++b) {
        const int64_t first = (task.queries.begin + b) * lanes, count = std::min(lanes, tq - first);
        if (op.args.causal && k0 > first + count - 1) continue;
        auto block = queries(b);
        cpu.simd.attention_gradient({.q = block.q,
                                     .d_o = block.d_o,
                                     .q_rows = block.q_rows,
                                     .do_rows = block.do_rows,
                                     .lse = block.lse,
                                     .delta = block.delta,
                                     .queries = count,
                                     .k = key_rows,
                                     .v = value_rows,
                                     .k_pairs = key_pairs,
                                     .keys = keys,
                                     .d = d,
                                     .ld = ld,
                                     .visible = op.args.causal ? k0 - first : -most_keys,
                                     .scale = at.scale,
                                     .dq = task.to_queries ? dq_lanes + b * lanes * d : nullptr,
                                     .dk = task.to_keys ? dk_rows : nullptr,
                                     .dv = dv_rows,
                                     .scratch = work},
                                    at.bf16);
      }
      if (task.to_keys && op.dk)
        cpu.simd.attention_store_rows(at.row(op.dk.tensor, unit, k0), c, dk_rows, ld, keys, d,
                                      at.scale, op.dk.accumulate, at.bf16);
      if (task.to_keys && op.dv)
        cpu.simd.attention_store_rows(at.row(op.dv.tensor, unit, k0), c, dv_rows, ld, keys, d, 1,
                                      op.dv.accumulate, at.bf16);
    }
    if (task.to_queries)
      for (int64_t b = 0; b < blocks; ++b) {
        const int64_t first = (task.queries.begin + b) * lanes;
        cpu.simd.attention_store_lanes(at.row(op.dq.tensor, unit, first), c,
                                       dq_lanes + b * lanes * d, std::min(lanes, tq - first), d,
                                       at.scale, op.dq.accumulate, at.bf16);
      }
  };
  run_gradient_tasks(cpu.threads,
                     {.units = units,
                      .key_blocks = key_blocks,
                      .query_blocks = query_blocks,
                      .together = at.together(threads),
                      .to_keys = op.dk || op.dv,
                      .to_queries = bool(op.dq)},
                     gradients);
}

}  // namespace spindle::cpu
