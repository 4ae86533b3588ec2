// Checkpoints of open_clip hold the same CLIP under other names: fused query, key and value
// matrices, projections transposed.
#pragma once
#include <string>

#include "io/model_source.h"

namespace spindle {

// Whether the weights are in open_clip's layout, from their header.
bool is_open_clip(const ModelSource& source);
// From a tensor of open_clip to ClipModel's parameters; names that it does not know stay as they
// are, and are refused.
FileLayout open_clip_layout(const std::string& key);

}  // namespace spindle
