#include "kernels/cuda/library/cudnn_parts.h"

#include <cudnn.h>
#include <dlfcn.h>

namespace spindle::cuda {

std::string why_no_cudnn() {
  const std::string part = "libcudnn_graph.so." + std::to_string(CUDNN_MAJOR);
  Dl_info info;
  std::string beside = part;
  if (dladdr(reinterpret_cast<void*>(&cudnnGetVersion), &info) != 0 && info.dli_fname) {
    beside = info.dli_fname;
    beside = beside.substr(0, beside.rfind('/') + 1) + part;
  }
  for (const std::string& file : {part, beside})
    if (dlopen(file.c_str(), RTLD_LAZY | RTLD_LOCAL)) return {};
  const char* why = dlerror();
  return "cuDNN is not all there (" + std::string(why ? why : part.c_str()) +
         "); `node scripts/cuda/toolkit.mjs --runtime` brings it";
}

}  // namespace spindle::cuda
