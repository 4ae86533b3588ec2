// The oracle: every kernel as plain loops in double. One file per family beside this one.
#pragma once
#include "kernels/host_kernels.h"

namespace spindle::reference {

class ReferenceKernels final : public HostKernels {
 public:
  const char* name() const override { return "reference"; }

  using HostKernels::run;
  SPINDLE_MATH_KERNELS(SPINDLE_OVERRIDE_KERNEL)

 private:
  double sum_of_squares(const Tensor& x) override;
  void adamw(const OptimizerArenas& arenas, const AdamWStep& step) override;
  void lerp(const Tensor& y, const Tensor& x, double weight) override;
};

}  // namespace spindle::reference
