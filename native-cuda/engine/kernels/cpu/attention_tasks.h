// How a backward pass of attention is shared out.
#pragma once
#include <algorithm>

#include "kernels/cpu/elements.h"
#include "core/thread_pool.h"

namespace spindle::cpu {

struct Range {
  int64_t begin, end;
  int64_t count() const { return end - begin; }
};

// What the gradients of a call are shared out by. A unit is a head of an image.
struct GradientShares {
  int64_t units, key_blocks, query_blocks;
  int64_t together = 1;  // units that belong to one thread
  bool to_keys, to_queries;
};

// The gradients of a range of keys and of a range of queries, in blocks. Every block's products are
// added in the same order, however ranges are cut.
struct GradientTask {
  int64_t unit;
  Range keys, queries;
  bool to_keys, to_queries;
};

// Runs f(task, thread) for all tasks of a call.
template <class F>
void run_gradient_tasks(ThreadPool& pool, const GradientShares& s, F&& f) {
  const int64_t threads = pool.threads();
  const Range all_keys{0, s.key_blocks}, all_queries{0, s.query_blocks};
  // Too few heads for the threads: keys and queries are shared out apart, which computes the scores
  // twice but adds nothing up across tasks.
  if (s.units * 10 < divide_up(s.units, threads) * threads * 7 &&
      std::max(s.key_blocks, s.query_blocks) > 1) {
    const int64_t k_pieces = s.to_keys ? std::min(s.key_blocks, 2 * threads) : 0,
                  q_pieces = s.to_queries ? std::min(s.query_blocks, 2 * threads) : 0,
                  pieces = k_pieces + q_pieces;
    pool.run(s.units * pieces, [&](int64_t task, int thread) {
      const int64_t unit = task / pieces, piece = task % pieces, i = piece - k_pieces;
      if (i < 0) {
        const Range keys{s.key_blocks * piece / k_pieces, s.key_blocks * (piece + 1) / k_pieces};
        f(GradientTask{unit, keys, all_queries, true, false}, thread);
      } else {
        const Range queries{s.query_blocks * i / q_pieces, s.query_blocks * (i + 1) / q_pieces};
        f(GradientTask{unit, all_keys, queries, false, true}, thread);
      }
    });
    return;
  }
  pool.run(s.units / s.together, [&](int64_t task, int thread) {
    for (int64_t unit = task * s.together; unit < (task + 1) * s.together; ++unit)
      f(GradientTask{unit, all_keys, all_queries, s.to_keys, s.to_queries}, thread);
  });
}

}  // namespace spindle::cpu
