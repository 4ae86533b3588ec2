// A backend: memory and all kernels over it. `reference` (plain loops, any of F32, BF16, F64; the
// oracle of every test), `cpu` (threads and vector units) and `cuda` (kernels/cuda_loader.h).
#pragma once
#include <memory>

#include "core/thread_pool.h"
#include "kernels/device_memory.h"
#include "kernels/kernels.h"

namespace spindle {

class Backend : public DeviceMemory, public Kernels, public StepKernels {
 public:
  using Kernels::run;
  using StepKernels::run;
};

std::unique_ptr<Backend> make_reference_kernels();

// The CPU backend. `isa`: "auto", "amx", "avx512_bf16", "avx512", "avx2" or "generic"; more than
// the processor has is refused.
struct CpuOptions {
  const char* isa = "auto";
};
std::unique_ptr<Backend> make_cpu_kernels(ThreadPool& threads, const CpuOptions& options);
// The instruction set that the cpu kernels would use, e.g. "avx512_bf16".
const char* detect_isa();

// The CUDA backend lies in a shared object of its own (kernels/cuda), so that one package runs with
// and without a GPU.
struct CudaOptions {
  int device = 0;
  bool tf32 = false;            // float32 products may round their operands to 10 bits of mantissa
  bool deterministic = true;    // the same bytes every time
  const char* plans = nullptr;  // folder of what was learnt about shapes; null: none
};

}  // namespace spindle
