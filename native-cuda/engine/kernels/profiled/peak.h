// What this machine can do at best, measured: the yardstick beside kernels' rates.
#pragma once
#include <string>

#include "core/dtype.h"
#include "core/thread_pool.h"

namespace spindle {

struct Peak {
  std::string instruction;  // what the rate of operations was measured with
  double gflops = 0;        // a multiply and an add are two
  double gigabytes = 0;     // per second, read and written
};

// Operations: chains of multiply-adds that stay in registers, long enough to hide their latency, in
// every thread at once; no memory is touched, so nothing real reaches it. `isa` as Kernels::name()
// says it. bfloat16 counts the dot-product instruction where there is one; elsewhere bfloat16
// products are computed with float32 multiply-adds, and that is what is measured. Bandwidth: a copy
// of 128 MiB shared out over the threads (caches that hold more than that make it look better),
// bytes read plus bytes written. The best of several short runs counts, so that a neighbour's burst
// does not lower the yardstick.
Peak measure_peak(ThreadPool& threads, const std::string& isa, DType dtype);

}  // namespace spindle
