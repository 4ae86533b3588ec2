// The ranks of a training hold the same values.
#pragma once
#include <vector>

#include "collective/collective.h"
#include "models/loaded.h"

namespace spindle {

// Rank 0's values to all ranks.
void broadcast_values(Collective& ranks,
                      const std::vector<ParameterValues>& state,
                      const CancelToken* cancel);
// Error(Internal) that names the first rank whose bytes are others than rank 0's.
void verify_values(Collective& ranks,
                   const std::vector<ParameterValues>& state,
                   const CancelToken* cancel);

}  // namespace spindle
