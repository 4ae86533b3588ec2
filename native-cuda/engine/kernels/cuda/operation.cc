// The operation that a thread is in, for the messages of errors.
#include "core/error.h"
#include "kernels/cuda/runtime.h"

namespace spindle::cuda {

namespace {
thread_local const Operation* current = nullptr;
}

Operation::Operation() : outer_(current) { current = this; }
Operation::~Operation() { current = outer_; }

std::string in_operation() { return current ? " in " + current->describe() : std::string(); }

void out_of_memory(size_t asked, size_t free_bytes, size_t total_bytes) {
  size_t needed = asked > free_bytes ? asked - free_bytes : 0;
  throw Error(
      Code::ResourceExhausted,
      cat("[cuda] out of device memory", in_operation(), ": asked for ", asked >> 20, " MiB with ",
          free_bytes >> 20, " of ", total_bytes >> 20, " MiB free",
          needed > 0 ? cat(" (", (needed >> 20) + 1, " MiB more are needed)")
                     : std::string(" (in pieces that are too small)"),
          "; lower the micro-batch or the sampler's batch size, the resolution, or use bfloat16"));
}

}  // namespace spindle::cuda
