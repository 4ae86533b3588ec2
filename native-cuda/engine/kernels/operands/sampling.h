// A sampler's step. Its scalars are a row of a table in the backend's memory, and the next row's
// number too, so that every step is the same work.
#pragma once
#include "kernels/operands/operand.h"

namespace spindle {

// One step of a sampler, whichever it is, as a row of float32 coefficients (sample/step_table.h):
// with x the latents, m the model's guided output (uncond + kGuidance (cond - uncond)), z noise,
// and start, h1, h2, h3 (newest first) and sum what earlier steps left,
//   v = clamp(kValueX x + kValueM m, -kLimit, kLimit)
//   next x = kNextX x + kNextStart start + kNextM m + kNextValue v + kNextH1 h1 + kNextH2 h2 +
//            kNextH3 h3 + kNextSum sum + kNextNoise z
//   next sum = kSumKeep sum + kSumM m;  start = x where kStore;
//   h3 = h2, h2 = h1, h1 = v where kPush
// A coefficient of 0 keeps what it is of out altogether, finite or not. The model is called with
// kInputScale x at kTimestep.
enum SamplerColumn : int64_t {
  kTimestep,
  kInputScale,
  kGuidance,
  kValueX,
  kValueM,
  kLimit,
  kNextX,
  kNextStart,
  kNextM,
  kNextValue,
  kNextH1,
  kNextH2,
  kNextH3,
  kNextSum,
  kNextNoise,
  kSumKeep,
  kSumM,
  kStore,
  kPush,
  kSamplerColumns
};
// Rows of a sampler's memory, all of as many values as the latents.
enum SamplerRow : int64_t { kLatents, kStart, kHistory1, kHistory2, kHistory3, kSum, kSamplerRows };
struct SamplerTensors {
  Tensor memory;  // (kSamplerRows, n) float32
  Tensor table;   // (steps, kSamplerColumns) float32
  Tensor at;      // (1) float64: the row of the table that is next
};

// Every copy in `input` becomes the latents for the model, and all of `timesteps` the row's.
struct SamplerInput {
  static constexpr const char* kName = "sampler_input";
  Tensor input;            // (copies,n) float32
  Tensor timesteps;        // (B) float32
  SamplerTensors sampler;  // read only

  static auto outputs(auto& op) { return std::tie(op.input, op.timesteps); }
  static auto inputs(auto& op) {
    return std::tie(op.sampler.memory, op.sampler.table, op.sampler.at);
  }
};

// The step from the model's output. Then the next row is the next.
struct SamplerStep {
  static constexpr const char* kName = "sampler_step";
  SamplerTensors sampler;  // its memory and place are written
  Tensor output;           // (2,n): uncond and cond; (1,n): cond alone; float32
  Tensor noise = {};       // (n) float32, or empty where no row has any

  static auto outputs(auto& op) { return std::tie(op.sampler.memory, op.sampler.at); }
  static auto inputs(auto& op) { return std::tie(op.sampler.table, op.output, op.noise); }
};

}  // namespace spindle

#define SPINDLE_SAMPLING_KERNELS(X) \
  X(SamplerInput)                   \
  X(SamplerStep)
