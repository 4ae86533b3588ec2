// A Collective of processes that are connected pairwise by Unix or TCP sockets, over host memory.
//
// An all-reduce cuts its values into one part per rank; a rank gets its part from all others, sums
// it in the order of the ranks (in double, rounded once) and sends the sum back: each rank moves 2
// (N - 1) / N of the values each way, as in a ring, and the result is the same on every rank, from
// run to run, and however gradients are cut into buckets. A thread of its own does the talking, so
// that it overlaps backward.
#pragma once
#include <memory>
#include <string>

#include "collective/collective.h"

namespace spindle {

struct RankGroup {
  int rank = 0, world_size = 1;
  std::string address;  // where rank 0 listens: "unix:/a/path" or "tcp:host:port"
  std::string token;    // the group's name: connections of others are refused
  double timeout_seconds =
      300;  // for the whole of connecting; later for a peer that is connected and silent
};

// Connects with all other ranks. Errors: InvalidArgument for a group that cannot be, Unavailable
// when a rank does not come.
std::unique_ptr<Collective> connect_ranks(const RankGroup& group, const CancelToken* cancel);

}  // namespace spindle
