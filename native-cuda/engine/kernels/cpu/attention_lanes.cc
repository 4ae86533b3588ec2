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

namespace {

struct Backward {
  CpuContext& cpu;
  const AttentionBackward& op;
  Heads at{op.q, op.k, op.args, cpu.simd};
  int64_t lanes = cpu.simd.attention_queries, most_keys = cpu.simd.attention_keys,
          key_blocks = divide_up(at.tk, most_keys), query_blocks = divide_up(at.tq, lanes);
  int64_t d = at.d, ld = round_up(d, cpu.simd.width);

  // What a block of queries has, one after the other.
  struct Queries {
    int64_t first, count;
    float *q, *d_o, *lse, *delta, *q_rows, *do_rows;
  };
  int64_t block_floats() const { return lanes * (2 * at.depth + 2 + 2 * ld / at.pair); }

  // What a task has of `blocks` blocks of queries, one after the other.
  struct Tile {
    float *packed, *dq;                        // of all blocks of queries
    float *key_rows, *value_rows, *key_pairs;  // of a block of keys
    float *dk, *dv;                            // (keys, ld)
    float *work, *buffer;
  };
  Tile tile(int64_t blocks, int thread) const {
    const int64_t keys_floats = most_keys * (2 * at.depth + d), sums = most_keys * ld;
    Tile t{};
    t.packed = reinterpret_cast<float*>(
        cpu.scratch(thread, (blocks * (block_floats() + lanes * d) + keys_floats + 2 * sums +
                             2 * lanes * most_keys + cpu.simd.width * d) *
                                4));
    t.dq = t.packed + blocks * block_floats();
    t.key_rows = t.dq + blocks * lanes * d;
    t.value_rows = t.key_rows + most_keys * at.depth;
    t.key_pairs = t.value_rows + most_keys * at.depth;
    t.dk = t.key_pairs + most_keys * d;
    t.dv = t.dk + sums;
    t.work = t.dv + sums;
    t.buffer = t.work + 2 * lanes * most_keys;
    return t;
  }
  Queries queries(const GradientTask& task, int64_t b, const Tile& t) const {
    Queries block{};
    block.first = (task.queries.begin + b) * lanes;
    block.count = std::min(lanes, at.tq - block.first);
    block.q = t.packed + b * block_floats();
    block.d_o = block.q + lanes * at.depth;
    block.lse = block.d_o + lanes * at.depth;
    block.delta = block.lse + lanes;
    block.q_rows = block.delta + lanes;
    block.do_rows = block.q_rows + lanes / at.pair * ld;
    return block;
  }

  void pack(const GradientTask& task, const Queries& to, const Tile& t) const {
    cpu.simd.attention_gradient_queries({.q = at.row(op.q, task.unit, to.first),
                                         .o = at.row(op.o, task.unit, to.first),
                                         .d_o = at.row(op.d_o, task.unit, to.first),
                                         .lse = op.lse.f32() + task.unit * at.tq + to.first,
                                         .stride = at.c,
                                         .queries = to.count,
                                         .d = d,
                                         .ld = ld,
                                         .q_lanes = to.q,
                                         .do_lanes = to.d_o,
                                         .q_rows = task.to_keys ? to.q_rows : nullptr,
                                         .do_rows = to.do_rows,
                                         .lse_lanes = to.lse,
                                         .delta = to.delta,
                                         .buffer = t.buffer},
                                        at.bf16);
  }

  // A block of keys, from k0 on, and all of the task's queries.
  void keys(const GradientTask& task, int64_t k0, const Tile& t) const {
    const int64_t count = std::min(most_keys, at.tk - k0);
    const char *k = at.row(op.k, task.unit, k0), *v = at.row(op.v, task.unit, k0);
    cpu.simd.attention_rows(t.key_rows, k, at.c, count, d, at.bf16);
    cpu.simd.attention_rows(t.value_rows, v, at.c, count, d, at.bf16);
    if (task.to_queries) cpu.simd.attention_row_pairs(t.key_pairs, k, at.c, count, d, d, at.bf16);
    if (task.to_keys) std::fill_n(t.dk, 2 * most_keys * ld, 0.0f);
    for (int64_t b = 0; b < task.queries.count(); ++b) {
      const Queries block = queries(task, b, t);
      if (op.args.causal && k0 > block.first + block.count - 1) continue;
      cpu.simd.attention_gradient({.q = block.q,
                                   .d_o = block.d_o,
                                   .q_rows = block.q_rows,
                                   .do_rows = block.do_rows,
                                   .lse = block.lse,
                                   .delta = block.delta,
                                   .queries = block.count,
                                   .k = t.key_rows,
                                   .v = t.value_rows,
                                   .k_pairs = t.key_pairs,
                                   .keys = count,
                                   .d = d,
                                   .ld = ld,
                                   .visible = op.args.causal ? k0 - block.first : -most_keys,
                                   .scale = at.scale,
                                   .dq = task.to_queries ? t.dq + b * lanes * d : nullptr,
                                   .dk = task.to_keys ? t.dk : nullptr,
                                   .dv = t.dv,
                                   .scratch = t.work},
                                  at.bf16);
    }
    auto store = [&](const GradSlot& slot, const float* sums, float factor) {
      if (task.to_keys && slot)
        cpu.simd.attention_store_rows(at.row(slot.tensor, task.unit, k0), at.c, sums, ld, count, d,
                                      factor, slot.accumulate, at.bf16);
    };
    store(op.dk, t.dk, at.scale);
    store(op.dv, t.dv, 1);
  }

  void gradients(const GradientTask& task, int thread) const {
    const int64_t blocks = task.queries.count();
    const Tile t = tile(blocks, thread);
    for (int64_t b = 0; b < blocks; ++b) pack(task, queries(task, b, t), t);
    if (task.to_queries) std::fill_n(t.dq, blocks * lanes * d, 0.0f);
    for (int64_t kb = task.keys.begin; kb < task.keys.end; ++kb) keys(task, kb * most_keys, t);
    if (!task.to_queries) return;
    for (int64_t b = 0; b < blocks; ++b) {
      const Queries block = queries(task, b, t);
      cpu.simd.attention_store_lanes(at.row(op.dq.tensor, task.unit, block.first), at.c,
                                     t.dq + b * lanes * d, block.count, d, at.scale,
                                     op.dq.accumulate, at.bf16);
    }
  }
};

}  // namespace

void attention_in_lanes_backward(CpuContext& cpu, const AttentionBackward& op) {
  const Backward backward{cpu, op};
  run_gradient_tasks(
      cpu.threads,
      {.units = backward.at.units,
       .key_blocks = backward.key_blocks,
       .query_blocks = backward.query_blocks,
       .together = backward.at.together(cpu.threads.threads()),
       .to_keys = op.dk || op.dv,
       .to_queries = bool(op.dq)},
      [&](const GradientTask& task, int thread) { backward.gradients(task, thread); });
}

}  // namespace spindle::cpu
