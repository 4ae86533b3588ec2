// How the ranks of a group find each other: rank 0 listens at the group's address, the others tell
// it where they listen, and it tells everybody; then each connects with those below it.
#pragma once
#include <vector>

#include "collective/socket.h"
#include "collective/socket_collective.h"

namespace spindle {

// One connection per rank; this rank's own is empty.
std::vector<Socket> meet(const RankGroup& group, const CancelToken* cancel);

}  // namespace spindle
