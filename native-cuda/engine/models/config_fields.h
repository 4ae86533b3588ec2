// Kinds of field that the models' configs share.
#pragma once
#include "core/error.h"
#include "io/config.h"

namespace spindle {

inline int64_t positive(const Config& config, const std::string& key, int64_t fallback) {
  int64_t value = config.integer(key, fallback);
  if (value < 1 || value > (int64_t(1) << 24)) config.refuse(key, "a number from 1 to 16777216");
  return value;
}

// A list of `levels` positive numbers (of any length when 0), or one number for all of them.
inline std::vector<int64_t> per_level(const Config& config,
                                      const std::string& key,
                                      size_t levels,
                                      int64_t fallback) {
  if (levels > 0 && !config.raw(key).is_array())
    return std::vector<int64_t>(levels, positive(config, key, fallback));
  std::vector<int64_t> values = config.integers(key);
  if (levels > 0 && values.size() != levels)
    config.refuse(key, cat(levels, " numbers, one per entry of block_out_channels"));
  if (values.empty() || values.size() > 16) config.refuse(key, "a list of 1 to 16 numbers");
  for (int64_t value : values)
    if (value < 1 || value > (int64_t(1) << 24)) config.refuse(key, "positive numbers");
  return values;
}

}  // namespace spindle
