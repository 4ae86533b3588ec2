// What the backend runs with, for `doctor`. Works without a device.
#include <cstdio>
#include <string>

#include "kernels/cuda/library/check.h"
#include "kernels/cuda/library/cudnn_parts.h"
#if defined(SPINDLE_NCCL)
#include <nccl.h>
#endif

namespace {

std::string three(size_t version) {
  return std::to_string(version / 10000) + "." + std::to_string(version / 100 % 100) + "." +
         std::to_string(version % 100);
}

std::string all() {
  int runtime = 0;
  cudaRuntimeGetVersion(&runtime);
  std::string text = "CUDA runtime\t" + std::to_string(runtime / 1000) + "." +
                     std::to_string(runtime % 1000 / 10) + "\ncuBLASLt\t" +
                     three(cublasLtGetVersion()) + "\n";
  const std::string no_cudnn = spindle::cuda::why_no_cudnn();
  text +=
      "cuDNN\t" +
      (no_cudnn.empty() ? three(cudnnGetVersion()) : three(CUDNN_VERSION) + " (" + no_cudnn + ")") +
      "\n";
#if defined(SPINDLE_NCCL)
  if (int nccl = 0; ncclGetVersion(&nccl) == ncclSuccess)
    text += "NCCL\t" + three(size_t(nccl)) + "\n";
#endif
  return text;
}

}  // namespace

// One line each: name, tab, version.
extern "C" __attribute__((visibility("default"))) const char* spindle_cuda_versions() {
  static const std::string* text = new std::string(all());
  return text->c_str();
}
