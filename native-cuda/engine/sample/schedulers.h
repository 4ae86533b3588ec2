// The schedulers there are, one file each; make_scheduler picks one.
#pragma once
#include <memory>

#include "sample/scheduler.h"

namespace spindle {

std::unique_ptr<Scheduler> make_ddim(const Config& config, double eta);
std::unique_ptr<Scheduler> make_pndm(const Config& config);
std::unique_ptr<Scheduler> make_dpm_solver_multistep(const Config& config);
std::unique_ptr<Scheduler> make_euler_discrete(const Config& config);
std::unique_ptr<Scheduler> make_euler_ancestral_discrete(const Config& config);
std::unique_ptr<Scheduler> make_heun_discrete(const Config& config);
std::unique_ptr<Scheduler> make_uni_pc_multistep(const Config& config);
std::unique_ptr<Scheduler> make_lcm(const Config& config);
std::unique_ptr<Scheduler> make_ddpm(const Config& config);

}  // namespace spindle
