// The libraries of a real device.
#include <cublasLt.h>
#include <cudnn.h>

#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/library/cudnn_parts.h"

namespace spindle::cuda {

LibraryVersions library_versions() {
  static const std::string problem = why_no_cudnn();
  if (!problem.empty()) throw Error(Code::NotFound, cat("[cuda] ", problem));
  return {cublasLtGetVersion(), cudnnGetVersion()};
}

std::unique_ptr<RankLink> make_rank_link(Collective& hosts) {
  std::unique_ptr<RankLink> nccl = make_nccl_link(hosts);
  return nccl ? std::move(nccl) : make_staged_link(hosts);
}

Libraries make_libraries(const LibraryOptions& options) {
  Libraries libraries;
  libraries.products = make_cublaslt_products(options);
  libraries.convolutions = make_cudnn_convolutions(options);
  // What cuDNN takes first, then our own.
  libraries.attention.push_back(make_cudnn_attention(options));
  libraries.attention.push_back(make_flash_attention(options));
  return libraries;
}

}  // namespace spindle::cuda
