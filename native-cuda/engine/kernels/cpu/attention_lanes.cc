// Attention in bfloat16 with queries in vector lanes (isa/attention_lanes.inl): every block of queries meets all keys of its head while
// scores and weights stay in the first-level cache. Keys and values are packed once per head.
#include <cmath>

#include "kernels/cpu/cpu_kernels.h"

namespace spindle::cpu {

namespace {

// Heads of a task: rows of neighbours that share a cache line belong to one thread.
int64_t heads_together(int64_t heads, int64_t units, int64_t row_bytes, int64_t threads) {
  int64_t together = row_bytes < 64 && 64 % row_bytes == 0 ? 64 / row_bytes : 1;
  return heads % together == 0 && units / together >= 4 * threads ? together : 1;
}

}  // namespace

// Float32 stays with products of blocks: recorded training steps follow the last bit of its sums.
bool CpuKernels::attention_in_lanes(const Tensor& q, const AttentionArgs& args) const { return is_bf16(q) && simd_.attention_lanes && args.scale >= 0; }

void CpuKernels::attention_forward_in_lanes(Tensor& o, Tensor& lse, const Tensor& q, const Tensor& k, const Tensor& v, const AttentionArgs& args) {
  const bool pairs = simd_.attention_pairs;
  const int64_t batch = q.dim(0), tq = q.dim(1), tk = k.dim(1), c = q.dim(2), heads = args.heads, d = c / heads, units = batch * heads;
  const int64_t most = simd_.attention_queries, blocks = divide_up(tq, most), depth = pairs ? divide_up(d, 2) : d;
  const int64_t k_floats = round_up(tk * depth, 16), head_floats = k_floats + round_up((pairs ? divide_up(tk, 2) : tk) * d, 16);
  // A task has all queries of its heads, unless heads are too few to share out: then keys and values are packed for all of a head's tasks.
  const int64_t pieces = units >= 2 * threads_.threads() ? 1 : std::min(blocks, 4 * int64_t(threads_.threads()));
  const int64_t together = pieces > 1 ? 1 : heads_together(heads, units, 2 * d, threads_.threads());
  auto row = [&](const Tensor& t, int64_t unit, int64_t i) { return static_cast<uint16_t*>(t.raw()) + (unit / heads * t.dim(1) + i) * c + unit % heads * d; };
  auto pack = [&](float* to, int64_t unit) {
    simd_.attention_rows(to, row(k, unit, 0), c, tk, d);
    simd_.attention_row_pairs(to + k_floats, row(v, unit, 0), c, tk, d, d);
  };
  float* shared = nullptr;
  if (pieces > 1) {
    shared = reinterpret_cast<float*>(shared_scratch(units * head_floats * 4));
    threads_.run(units, [&](int64_t unit, int) { pack(shared + unit * head_floats, unit); });
  }
  threads_.run(units / together * pieces, [&](int64_t task, int thread) {
    const int64_t own = shared ? 0 : head_floats, piece = task % pieces;
    float* memory = reinterpret_cast<float*>(scratch(thread, (own + most * (2 * d + simd_.attention_keys)) * 4));
    for (int64_t unit = task / pieces * together; unit < (task / pieces + 1) * together; ++unit) {
      const float* packed = shared ? shared + unit * head_floats : memory;
      if (!shared) pack(memory, unit);
      for (int64_t first = blocks * piece / pieces * most, end = std::min(tq, blocks * (piece + 1) / pieces * most); first < end; first += most)
        simd_.attention_forward({.q = row(q, unit, first), .o = row(o, unit, first), .lse = lse.f32() + unit * tq + first, .stride = c, .queries = std::min(most, end - first), .d = d,
                                 .first = first, .k = packed, .v = packed + k_floats, .keys = tk, .scale = float(args.scale != 0 ? args.scale : 1.0 / std::sqrt(double(d))),
                                 .causal = args.causal, .scratch = memory + own});
    }
  });
}

}  // namespace spindle::cpu
