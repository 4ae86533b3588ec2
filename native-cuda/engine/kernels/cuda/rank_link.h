// What carries values between the ranks' device memory: NCCL, or the host's sockets through pinned
// memory. device_collective.h says when; every rank makes the same calls in the same order.
#pragma once
#include <memory>
#include <vector>

#include "collective/collective.h"
#include "kernels/cuda/runtime.h"

namespace spindle::cuda {

class RankLink {
 public:
  virtual ~RankLink() = default;
  // Both are asked of `stream` and done in its order.
  virtual void all_reduce(const std::vector<FloatRange>& ranges, Stream stream) = 0;
  virtual void broadcast(FloatRange range, Stream stream) = 0;
  // Throws what went wrong so far, Error(Unavailable) when another rank is lost.
  virtual void check() = 0;
  // Ends what the stream still waits for. Nothing may be asked of it afterwards.
  virtual void abort() noexcept = 0;
};

// `hosts` connects the same ranks over host memory and outlives the link; the calling thread's
// device is the rank's.
std::unique_ptr<RankLink> make_staged_link(Collective& hosts);
// Null where this build has no NCCL (library/nccl_link.cc).
std::unique_ptr<RankLink> make_nccl_link(Collective& hosts);
// The one that this build's libraries have; beside make_libraries().
std::unique_ptr<RankLink> make_rank_link(Collective& hosts);

}  // namespace spindle::cuda
