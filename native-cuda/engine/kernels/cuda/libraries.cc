// The libraries of a real device.
#include "kernels/cuda/cuda_kernels.h"

namespace spindle::cuda {

Libraries make_libraries(const LibraryOptions& options) {
  Libraries libraries;
  libraries.products = make_cublaslt_products(options);
  libraries.convolutions = make_cudnn_convolutions(options);
  // What cuDNN takes first, then our own.
  libraries.attention.push_back(make_cudnn_attention(options));
  return libraries;
}

}  // namespace spindle::cuda
