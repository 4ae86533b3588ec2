#include "sample/step_table.h"

#include "kernels/kernels.h"

namespace spindle {

std::vector<float> step_table(const Scheduler& scheduler, double guidance_scale) {
  size_t calls = scheduler.timesteps().size();
  std::vector<float> table(calls * kSamplerColumns);
  for (size_t i = 0; i < calls; ++i) {
    const LinearStep s = scheduler.linear_step(i);
    auto set = [&](SamplerColumn column, double value) {
      table[i * kSamplerColumns + size_t(column)] = float(value);
    };
    set(kTimestep, scheduler.timesteps()[i]);
    set(kInputScale, s.input_scale);
    set(kGuidance, guidance_scale);
    set(kValueX, s.value_x);
    set(kValueM, s.value_m);
    set(kLimit, s.limit);
    set(kNextX, s.next_x);
    set(kNextStart, s.next_start);
    set(kNextM, s.next_m);
    set(kNextValue, s.next_value);
    set(kNextH1, s.next_h1);
    set(kNextH2, s.next_h2);
    set(kNextH3, s.next_h3);
    set(kNextSum, s.next_sum);
    set(kNextNoise, s.next_noise);
    set(kSumKeep, s.sum_keep);
    set(kSumM, s.sum_m);
    set(kStore, s.store ? 1 : 0);
    set(kPush, s.push ? 1 : 0);
  }
  return table;
}

}  // namespace spindle
