#include "sample/scheduler.h"

#include "core/error.h"
#include "sample/schedulers.h"

namespace spindle {

void Scheduler::set_timesteps(int64_t steps) {
  require(steps >= 1 && steps <= schedule_.num_train_timesteps,
          "[scheduler] steps: expected 1 to num_train_timesteps = ", schedule_.num_train_timesteps,
          ", got ", steps);
  steps_ = steps;
  next_ = left_out_ = 0;
  timesteps_.clear();
  plan(steps);
  // steps_offset and spacings can run past either end.
  for (double t : timesteps_)
    require(t >= 0 && t <= double(schedule_.num_train_timesteps - 1), "[scheduler] steps: ", steps,
            " steps with this timestep_spacing and steps_offset need timestep ", t,
            ", expected 0 to ", schedule_.num_train_timesteps - 1);
}

void Scheduler::start_from_image(double strength) {
  require(strength > 0 && strength <= 1, "[scheduler] strength: expected above 0, to 1, got ",
          strength);
  int64_t kept = int64_t(double(steps_) * strength);  // rounded down, as in the library
  size_t calls = size_t(steps_ - kept) * order();
  require(kept > 0 && calls < timesteps_.size(), "[scheduler] strength: expected at least 1 / ",
          steps_, " of ", steps_, " steps, got ", strength, ", which leaves no step");
  timesteps_.erase(timesteps_.begin(), timesteps_.begin() + std::ptrdiff_t(calls));
  left_out_ = calls;
  leave_out(calls);
}

void Scheduler::start(float* x, int64_t count, const float* image) const {
  if (image) {
    ImageStart s = image_start();
    float signal = float(s.signal), noise = float(s.noise);
    for (int64_t k = 0; k < count; ++k) x[k] = signal * image[k] + noise * x[k];
  } else {
    float scale = float(init_noise_sigma());
    for (int64_t k = 0; k < count; ++k) x[k] *= scale;
  }
}

Scheduler::ImageStart Scheduler::scheduled_start() const {
  std::array<float, 4> c = schedule_.coefficients(int64_t(timesteps_.front()));
  return {double(c[0]), double(c[1])};
}

void Scheduler::step(float* x,
                     const float* model_output,
                     int64_t count,
                     size_t i,
                     const NoiseSource& noise) {
  ensure(i == next_ && i < timesteps_.size(), "[scheduler] step ", i,
         " was called in the place of ", next_, " of ", timesteps_.size());
  advance(x, model_output, count, i, noise);
  ++next_;
}

namespace {
// Keys of the other schedulers: diffusers hands a config from class to class and each reads its
// own.
constexpr const char* kKnownKeys[] = {"num_train_timesteps",
                                      "beta_start",
                                      "beta_end",
                                      "beta_schedule",
                                      "trained_betas",
                                      "prediction_type",
                                      "timestep_spacing",
                                      "steps_offset",
                                      "rescale_betas_zero_snr",
                                      "clip_sample",
                                      "clip_sample_range",
                                      "set_alpha_to_one",
                                      "thresholding",
                                      "dynamic_thresholding_ratio",
                                      "sample_max_value",
                                      "skip_prk_steps",
                                      "solver_order",
                                      "solver_type",
                                      "algorithm_type",
                                      "lower_order_final",
                                      "euler_at_final",
                                      "use_karras_sigmas",
                                      "use_exponential_sigmas",
                                      "use_beta_sigmas",
                                      "use_lu_lambdas",
                                      "use_flow_sigmas",
                                      "flow_shift",
                                      "final_sigmas_type",
                                      "lambda_min_clipped",
                                      "variance_type",
                                      "use_dynamic_shifting",
                                      "time_shift_type",
                                      "interpolation_type",
                                      "sigma_min",
                                      "sigma_max",
                                      "timestep_type",
                                      "predict_x0",
                                      "disable_corrector",
                                      "solver_p",
                                      "shift_terminal",
                                      "original_inference_steps",
                                      "timestep_scaling"};
}  // namespace

std::unique_ptr<Scheduler> make_scheduler(const Json& json, double eta) {
  Config config(json, "scheduler_config.json");
  std::string name =
      config.choice("_class_name", {"DDIMScheduler", "DDPMScheduler", "PNDMScheduler",
                                    "DPMSolverMultistepScheduler", "UniPCMultistepScheduler",
                                    "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler",
                                    "HeunDiscreteScheduler", "LCMScheduler"});
  require(eta >= 0 && eta <= 1, "[scheduler] eta: expected 0 to 1, got ", eta);
  require(eta == 0 || name == "DDIMScheduler", "[scheduler] eta: expected 0 for ", name,
          " (only DDIMScheduler takes another), got ", eta);
  std::unique_ptr<Scheduler> scheduler;
  if (name == "DDIMScheduler")
    scheduler = make_ddim(config, eta);
  else if (name == "PNDMScheduler")
    scheduler = make_pndm(config);
  else if (name == "DPMSolverMultistepScheduler")
    scheduler = make_dpm_solver_multistep(config);
  else if (name == "EulerDiscreteScheduler")
    scheduler = make_euler_discrete(config);
  else if (name == "EulerAncestralDiscreteScheduler")
    scheduler = make_euler_ancestral_discrete(config);
  else if (name == "HeunDiscreteScheduler")
    scheduler = make_heun_discrete(config);
  else if (name == "UniPCMultistepScheduler")
    scheduler = make_uni_pc_multistep(config);
  else if (name == "LCMScheduler")
    scheduler = make_lcm(config);
  else
    scheduler = make_ddpm(config);
  for (const char* key : kKnownKeys) config.ignore(key);
  config.refuse_unread();
  return scheduler;
}

std::unique_ptr<Scheduler> make_scheduler(const std::string& config, double eta) {
  return make_scheduler(Json::parse(config, "scheduler_config.json"), eta);
}

}  // namespace spindle
