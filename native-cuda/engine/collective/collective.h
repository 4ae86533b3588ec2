// What the ranks of a data-parallel training say to each other. A rank is one process with one
// device; every rank makes the same calls in the same order. Errors have Code::Unavailable when a
// rank is gone or silent: the group is of no use after that.
#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "core/cancel.h"

namespace spindle {

// `count` float32 values at `data`, in memory that the collective can reach.
struct FloatRange {
  float* data = nullptr;
  int64_t count = 0;
};

class Collective {
 public:
  virtual ~Collective() = default;
  virtual int rank() const = 0;
  virtual int world_size() const = 0;
  // How long a silent rank is waited for.
  virtual double timeout_seconds() const = 0;

  // Puts the sum over all ranks in place of the ranges' values; returns at once, and the ranges are
  // the collective's until wait() returns. The sum of one value depends on the ranks' values and
  // their number alone, not on how values are cut into calls.
  virtual void start_all_reduce(const std::vector<FloatRange>& ranges) = 0;
  // Until everything started is done.
  virtual void wait(const CancelToken* cancel) = 0;
  // Rank 0's values to all; waits.
  virtual void broadcast(FloatRange range, const CancelToken* cancel) = 0;
  // What every rank said, by rank; waits.
  virtual std::vector<std::string> gather(std::string_view mine, const CancelToken* cancel) = 0;
};

}  // namespace spindle
