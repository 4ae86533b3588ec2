// Calls of NVIDIA's libraries: a failure becomes an Error that says which expression failed, why,
// and for which shapes.
#pragma once
#include <cublasLt.h>
#include <cuda_runtime.h>
#include <cudnn.h>

#include <string>

#include "core/error.h"

namespace spindle::cuda {

[[noreturn]] inline void library_failed(const char* library,
                                        const char* expression,
                                        const char* reason,
                                        const std::string& what) {
  throw Error(Code::Internal,
              cat("[", library, "] ", expression, " failed for ", what, ": ", reason));
}

}  // namespace spindle::cuda

// `what` is an expression for the shapes; it is only evaluated after a failure.
#define SPINDLE_CUBLAS(expression, what)                                                         \
  do {                                                                                           \
    if (const cublasStatus_t status_ = (expression); status_ != CUBLAS_STATUS_SUCCESS)           \
      ::spindle::cuda::library_failed("cuBLASLt", #expression, cublasLtGetStatusString(status_), \
                                      what);                                                     \
  } while (0)
#define SPINDLE_CUDNN(expression, what)                                                          \
  do {                                                                                           \
    if (const cudnnStatus_t status_ = (expression); status_ != CUDNN_STATUS_SUCCESS)             \
      ::spindle::cuda::library_failed("cuDNN", #expression, cudnnGetErrorString(status_), what); \
  } while (0)
#define SPINDLE_CUDA_CALL(expression, what)                                                    \
  do {                                                                                         \
    if (const cudaError_t status_ = (expression); status_ != cudaSuccess)                      \
      ::spindle::cuda::library_failed("CUDA", #expression, cudaGetErrorString(status_), what); \
  } while (0)
