// What kernels/cuda_loader.h looks up.
#include "kernels/cuda/cuda_kernels.h"

#define SPINDLE_EXPORT extern "C" __attribute__((visibility("default")))

SPINDLE_EXPORT const char* spindle_cuda_abi() { return SPINDLE_KERNELS_ABI; }

SPINDLE_EXPORT const char* spindle_cuda_why_not() {
  static const std::string* why = new std::string(spindle::cuda::why_no_device());
  return why->c_str();
}

SPINDLE_EXPORT spindle::Backend* spindle_cuda_make(const spindle::CudaOptions& options) {
  return new spindle::cuda::CudaKernels(options);
}
