// Learning rate over the steps of one training.
#pragma once
#include <cstdint>
#include <string>

namespace spindle {

enum class ScheduleKind { Constant, Linear, Cosine };

ScheduleKind parse_schedule(const std::string& name);

struct LearningRate {
  double base = 1e-5;
  ScheduleKind kind = ScheduleKind::Constant;
  int64_t warmup_steps = 0, total_steps = 1;

  // At step k from 0: warm-up (k + 1) / warmup, decay to 0 after the last step; whichever is lower.
  double at(int64_t step) const;
};

}  // namespace spindle
