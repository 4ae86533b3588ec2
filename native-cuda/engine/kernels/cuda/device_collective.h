// A Collective over device memory. Sums run on a stream of their own, each behind what the
// computing stream had been given when it was started, so that they overlap backward; what is asked
// of the computing stream after wait() comes behind all of them.
#pragma once
#include <memory>

#include "collective/collective.h"
#include "kernels/cuda/rank_link.h"

namespace spindle::cuda {

// `hosts` carries texts; `link` values. To be called, and used, by the thread that gives `compute`
// its work. wait() looks on from the host: a rank that is gone would keep the device waiting for
// ever, and a step without its gradients must not be applied. When it throws, the group is broken
// off: what was started has ended, and nothing can be started any more.
std::unique_ptr<Collective> make_device_collective(std::unique_ptr<Collective> hosts,
                                                   std::unique_ptr<RankLink> link,
                                                   Stream compute);

}  // namespace spindle::cuda
