// A sampling loop's scalars as one table, for backends that keep them in their own memory
// (SamplerColumn in kernels.h).
#pragma once
#include <vector>

#include "sample/scheduler.h"

namespace spindle {

// (calls, kSamplerColumns) float32, a row per model call; after set_timesteps.
std::vector<float> step_table(const Scheduler& scheduler, double guidance_scale);

}  // namespace spindle
