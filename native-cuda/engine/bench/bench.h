// Benchmarks of whole tasks, and the measurement that chooses a precision.
#pragma once
#include <string>

#include "autograd/device.h"
#include "io/json.h"

namespace spindle {

struct BenchOptions {
  std::string task = "spin_step";  // unet_forward, spin_step, sample, vae_encode, vae_decode
  std::string model = "sd15";      // sd15, sdxl, small or a pipeline folder
  DType compute = DType::F32;
  int64_t batch = 1;
  int64_t steps = 20;  // of sample
  int64_t repeat = 5, warmup = 2;
  bool checkpointing = false;  // of spin_step: activations are computed again in backward
  bool profile = false;
};

// One flat object: peer, model, task, dtype, device, batch, seconds_median, seconds_min,
// <unit>_per_second, peak_mib; and, when asked for, an object: profile (bench/profile.h).
Json run_bench(Device& device, const BenchOptions& options);

struct PrecisionTimes {
  double float32 = 0, bfloat16 = 0;  // seconds of a small spin step
};
PrecisionTimes measure_precision(Device& device);

}  // namespace spindle
