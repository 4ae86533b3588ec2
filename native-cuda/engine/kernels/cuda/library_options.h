// What every library port of the CUDA backend is made with. No CUDA header: the emulated device
// implements the same ports.
#pragma once
#include <cstdint>

#include "core/tensor.h"

namespace spindle::cuda {

class PlanCache;

// A cudaStream_t of the real runtime, or what stands for one on the emulated device.
using StreamHandle = void*;

struct LibraryOptions {
  // All work of a port goes to this one stream, in call order. Calls return at once; nothing waits
  // for the device except the first call of a shape when it measures plans (never while the stream
  // is being captured).
  StreamHandle stream = nullptr;
  // Device memory for workspaces and temporaries. A block may be released right after the call that
  // used it was enqueued: it is handed out again for later work of the same stream only.
  Allocator* scratch = nullptr;
  // float32 products and convolutions may round their operands to TF32 (10 bits of mantissa).
  // bfloat16 is not concerned.
  bool tf32 = false;
  // Only algorithms that give the same bytes for the same input, chosen by rank or from `plans` and
  // never by the clock. false: the fastest of several is measured when a shape is first seen.
  bool deterministic = true;
  // Choices of earlier runs (kernels/cuda/plan_cache.h); null: none are remembered.
  PlanCache* plans = nullptr;
};

}  // namespace spindle::cuda
