// A Collective over NCCL, for values in device memory: one rank per GPU.
#pragma once
#include <memory>

#include "collective/collective.h"

struct CUstream_st;  // cudaStream_t points to it

namespace spindle::cuda {

// `hosts` connects the same ranks and carries texts, NCCL's id first; `compute` is the stream that writes the values, on the calling
// thread's current device. Sums run on a stream of their own, each behind what `compute` had been given when it was started.
// NCCL chooses the order of a sum by the number of ranks, the machine and the size: the same from run to run on one machine, but a
// bucket of another size may round differently. Throws Error(InvalidArgument) where this build has no NCCL.
std::unique_ptr<Collective> make_nccl_collective(std::unique_ptr<Collective> hosts, CUstream_st* compute);

}  // namespace spindle::cuda
