// Finds and loads the CUDA backend: a shared object beside the engine's own file, made from the
// same sources.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "kernels/backend.h"

namespace spindle {

// `library`: the file; empty: spindle_cuda.so beside the addon or program that this is in.
// Why the backend cannot be used, as one sentence that says what is missing; empty when it can.
std::string why_no_cuda(const std::string& library = {});

// Throws Error(InvalidArgument) with that sentence, or for a device that is not there.
std::unique_ptr<Backend> make_cuda_kernels(const CudaOptions& options,
                                           const std::string& library = {});

// What the shared object exports, by C names: spindle_cuda_abi, spindle_cuda_why_not,
// spindle_cuda_make.
struct CudaExports {
  const char* (*abi)();
  const char* (*why_not)();
  Backend* (*make)(const CudaOptions&);
};
// The contract that both sides were compiled with.
const char* cuda_abi();

}  // namespace spindle
