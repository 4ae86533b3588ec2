// What every kernel of the cpu backend works with: threads, the inner loops of an instruction set,
// packed weights and scratch memory.
//
// Rules of the house: a task's work depends on its number alone, and sums run in an order fixed by
// shapes; so bytes do not depend on the number of threads, nor an image's on the batch it is in.
// Activations are F32 or BF16; sums are float32 or better.
#pragma once
#include <vector>

#include "core/pool.h"
#include "core/thread_pool.h"
#include "kernels/cpu/elements.h"
#include "kernels/cpu/isa/simd.h"
#include "kernels/cpu/packing.h"

namespace spindle::cpu {

// Of a product's tile, by the type of what is multiplied.
inline int64_t tile_rows(const Simd& simd, int64_t vectors, bool bf16) {
  return (bf16 ? simd.rows_for_bf16 : simd.rows_for)[vectors];
}

class CpuContext {
 public:
  CpuContext(ThreadPool& threads, const Simd& simd);

  ThreadPool& threads;
  const Simd& simd;
  Packing packing;
  BufferPool pool;  // of scratch, and of tensors that last for one call

  // One growing buffer per thread (reused, never shared).
  std::byte* scratch(int thread, int64_t bytes) { return grow(scratch_[size_t(thread)], bytes); }
  // The same for what the tasks of a call share.
  std::byte* shared_scratch(int64_t bytes) { return grow(shared_scratch_, bytes); }
  // What lies outside of an image: as many bytes that are zero. `what` names them in the error.
  const std::byte* zeros(int64_t bytes, const char* what) const;

  // Runs f(begin, end, thread) over [0, n) in pieces of `grain`.
  template <class F>
  void pieces(int64_t n, int64_t grain, F&& f) {
    threads.run(divide_up(n, grain),
                [&](int64_t i, int thread) { f(i * grain, std::min(n, (i + 1) * grain), thread); });
  }

  // Whether convolutions may leave the direct sum for float32 arithmetic of their own: not where
  // they are summed in double, nor where bfloat16 products are faster.
  bool float32_serves(DType dtype, const Shape& filter, int64_t pixels) const {
    return dtype == DType::BF16 ? simd.winograd_bf16 : !sums_in_double(filter.numel(), pixels);
  }

 private:
  std::byte* grow(Tensor& buffer, int64_t bytes);

  std::vector<Tensor> scratch_;
  Tensor shared_scratch_;
  std::vector<std::byte> zeros_;
};

}  // namespace spindle::cpu
