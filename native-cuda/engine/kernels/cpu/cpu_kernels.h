// The cpu backend: threads over tasks of fixed size, inner loops from the processor's table in
// isa/. Kernels themselves are free functions (operators.h).
#pragma once
#include "core/flush_subnormals.h"
#include "kernels/cpu/operators.h"
#include "kernels/host_kernels.h"

namespace spindle::cpu {

class CpuKernels final : public HostKernels {
 public:
  CpuKernels(ThreadPool& threads, const Simd& simd) : context_(threads, simd) {}
  const char* name() const override { return context_.simd.name; }
  bool rounds_weights() const override { return true; }
  bool keep_weight(const Weight& w, DType compute) override {
    return context_.packing.keep(w, compute);
  }
  void forget_weight(uint64_t id) override { context_.packing.forget(id); }
  KernelCounters counters() const override;

  using HostKernels::run;
#define SPINDLE_CPU_KERNEL(Op) \
  void run(const Op& op) override { run_flushed(op); }
  SPINDLE_MATH_KERNELS(SPINDLE_CPU_KERNEL)
#undef SPINDLE_CPU_KERNEL

 private:
  double sum_of_squares(const Tensor& x) override;
  void adamw(const OptimizerArenas& arenas, const AdamWStep& step) override;
  void lerp(const Tensor& y, const Tensor& x, double weight) override;

  // What a kernel does between its tasks is flushed too.
  void run_flushed(const auto& op) {
    FlushSubnormals flush;
    cpu::run(context_, op);
  }

  CpuContext context_;
};

}  // namespace spindle::cpu
