// The reverse process: one class per diffusers scheduler, configured by the same keys. Steps are
// elementwise, so latents may be in any layout and hold any number of images, as long as they stay
// the same from step to step.
#pragma once
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "io/json.h"
#include "sample/noise_schedule.h"

namespace spindle {

// Fills `count` standard normal values, in the layout of the latents.
using NoiseSource = std::function<void(float* out, int64_t count)>;

// A step as sums of products, for backends that compute it in their own memory: kernels.h has the
// formulas (SamplerColumn). It gives what scale_model_input() and step() give, but for roundings;
// scheduler_test holds them against each other.
struct LinearStep {
  double input_scale = 1;
  double value_x = 0, value_m = 0, limit = std::numeric_limits<double>::infinity();
  double next_x = 0, next_start = 0, next_m = 0, next_value = 0, next_h1 = 0, next_h2 = 0,
         next_h3 = 0, next_sum = 0, next_noise = 0;
  double sum_keep = 0, sum_m = 0;
  bool store = false, push = false;
  bool draws = false;  // noise is drawn, whatever becomes of it
};

class Scheduler {
 public:
  virtual ~Scheduler() = default;
  // Chooses the timesteps and forgets all state.
  void set_timesteps(int64_t steps);
  // What the model is called with, one per model call (PNDM makes more of them than steps).
  const std::vector<double>& timesteps() const { return timesteps_; }
  // After set_timesteps: leaves out the calls before the one that `strength` names, above 0 to 1.
  // Drawing starts from an image then, as in diffusers' image-to-image pipelines.
  void start_from_image(double strength);
  // Standard normal values `x` become what the first call starts from: scaled, or added to `image`
  // (as many values; null: no image).
  void start(float* x, int64_t count, const float* image) const;
  // Scale of the initial noise; valid after set_timesteps.
  virtual double init_noise_sigma() const { return 1; }
  // In place, before model call i.
  virtual void scale_model_input(float* /*x*/, int64_t /*count*/, size_t /*i*/) const {}
  // x becomes the next sample, from the model's output at call i. Calls come in order, i = 0, 1,
  // ...
  void step(float* x, const float* model_output, int64_t count, size_t i, const NoiseSource& noise);

  // Model call i; valid after set_timesteps, in any order.
  virtual LinearStep linear_step(size_t i) const = 0;

  // The scheduler's own: Euler's is not the plain one.
  virtual void add_noise(float* out,
                         const float* x,
                         const float* noise,
                         int64_t count,
                         int64_t timestep) const {
    schedule_.add_noise(out, x, noise, count, timestep);
  }
  const NoiseSchedule& schedule() const { return schedule_; }

 protected:
  // What an image has become before the first call: signal x + noise z.
  struct ImageStart {
    double signal, noise;
  };

  explicit Scheduler(NoiseSchedule schedule) : schedule_(std::move(schedule)) {}
  // Model calls per step but the first, of schedulers that make several.
  virtual size_t order() const { return 1; }
  // The first `calls` of timesteps_ are gone; so must be theirs of whatever else lies by call.
  virtual void leave_out(size_t calls) = 0;
  // At the first call, as the library's add_noise has it.
  virtual ImageStart image_start() const = 0;
  // Of those that take the noise schedule at the timestep.
  ImageStart scheduled_start() const;
  virtual void plan(int64_t steps) = 0;  // sets timesteps_, resets state
  virtual void advance(float* x,
                       const float* model_output,
                       int64_t count,
                       size_t i,
                       const NoiseSource& noise) = 0;

  NoiseSchedule schedule_;
  std::vector<double> timesteps_;
  int64_t steps_ = 0;
  size_t next_ = 0;
  size_t left_out_ = 0;  // calls before the first
};

// From a scheduler_config.json with _class_name. Keys of other schedulers have no effect, as in
// diffusers; keys that no scheduler has and values that are not supported are refused by name.
// `eta` is DDIM's; the others take 0 only.
std::unique_ptr<Scheduler> make_scheduler(const Json& config, double eta = 0);
std::unique_ptr<Scheduler> make_scheduler(const std::string& config, double eta = 0);

}  // namespace spindle
