#include "kernels/profiled/profiled_kernels.h"

#include <chrono>

#include "kernels/profiled/costs.h"

namespace spindle {

namespace {
// One call, noted when it ends.
template <class Op>
struct Note {
  Backend& backend;
  KernelProfile& profile;
  const Op& op;
  std::chrono::steady_clock::time_point start = std::chrono::steady_clock::now();

  ~Note() {
    // Otherwise the time is what asking for the work took; what goes wrong comes up again at the
    // next call.
    if (!backend.host_visible()) try {
        backend.finish();
      } catch (const Error&) {
      }
    std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    profile.add(profiled::key_of(op), took.count(), profiled::flop_of(op), profiled::bytes_of(op));
  }
};
}  // namespace

template <class Op>
void ProfiledKernels::timed(const Op& op) {
  if constexpr (!profiled::kProfiled<Op>) {
    inner_->run(op);
  } else {
    Note<Op> note{*inner_, profile_, op};
    inner_->run(op);
  }
}

#define SPINDLE_TIMED_KERNEL(Op) \
  void ProfiledKernels::run(const Op& op) { timed(op); }
SPINDLE_KERNELS(SPINDLE_TIMED_KERNEL)
#undef SPINDLE_TIMED_KERNEL

}  // namespace spindle
