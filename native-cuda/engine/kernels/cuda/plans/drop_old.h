// Plans that were made before a checkpoint's algorithms were pinned are made again.
#pragma once
#include "kernels/cuda/library_options.h"
#include "kernels/cuda/plans/plan_cache.h"

namespace spindle::cuda {

template <class Plans>
void drop_old(Plans& plans, const LibraryOptions& options, uint64_t& generation) {
  if (!options.plans || options.plans->generation() == generation) return;
  plans.clear();
  generation = options.plans->generation();
}

}  // namespace spindle::cuda
