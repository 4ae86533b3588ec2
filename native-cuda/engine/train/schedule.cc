#include "train/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "core/error.h"

namespace spindle {

ScheduleKind parse_schedule(const std::string& name) {
  if (name == "constant") return ScheduleKind::Constant;
  if (name == "linear") return ScheduleKind::Linear;
  require(name == "cosine", "[train] schedule: expected constant, linear or cosine, got ", name);
  return ScheduleKind::Cosine;
}

double LearningRate::at(int64_t step) const {
  double warmup = warmup_steps > 0 ? std::min(1.0, double(step + 1) / double(warmup_steps)) : 1.0;
  double left = std::clamp(
      double(total_steps - step) / double(std::max<int64_t>(1, total_steps - warmup_steps)), 0.0,
      1.0);
  switch (kind) {
    case ScheduleKind::Constant:
      return base * warmup;
    case ScheduleKind::Linear:
      return base * std::min(warmup, left);
    case ScheduleKind::Cosine:
      return base * std::min(warmup, 0.5 * (1 + std::cos(std::numbers::pi * (1 - left))));
  }
  return base;
}

}  // namespace spindle
