#include "kernels/cuda_loader.h"

#include <dlfcn.h>
#include <unistd.h>

#include <map>
#include <mutex>

#include "core/version.h"

#ifndef SPINDLE_KERNELS_ABI
#error "SPINDLE_KERNELS_ABI: a digest of the contract's headers"
#endif

namespace spindle {

const char* cuda_abi() { return SPINDLE_KERNELS_ABI; }

namespace {

const char* const kName = "spindle_cuda.so";

std::string beside_the_engine() {
  Dl_info info;
  if (dladdr(reinterpret_cast<void*>(&beside_the_engine), &info) == 0 || !info.dli_fname)
    return kName;
  std::string path = info.dli_fname;
  size_t slash = path.rfind('/');
  return slash == std::string::npos ? cat("./", kName) : path.substr(0, slash + 1) + kName;
}

struct Loaded {
  CudaExports exports{};
  std::string problem;
};

template <class F>
bool find(void* handle, const char* name, F& function) {
  function = reinterpret_cast<F>(dlsym(handle, name));
  return function != nullptr;
}

Loaded load(const std::string& path) {
  if (::access(path.c_str(), R_OK) != 0)
    return {{}, cat("this build has no CUDA backend: expected ", path, ", got no such file")};
  // Never closed: its memory may be held until the process ends.
  void* handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!handle) return {{}, cat("the CUDA backend cannot be loaded: ", dlerror())};
  Loaded loaded;
  if (!find(handle, "spindle_cuda_abi", loaded.exports.abi) ||
      !find(handle, "spindle_cuda_why_not", loaded.exports.why_not) ||
      !find(handle, "spindle_cuda_make", loaded.exports.make))
    return {{}, cat(path, ": expected Spindle's CUDA backend, got another library")};
  if (std::string(loaded.exports.abi()) != cuda_abi())
    return {{},
            cat(path, ": expected a CUDA backend of this build (", cuda_abi(),
                "), got one of another (", loaded.exports.abi(), "); build both again")};
  loaded.problem = loaded.exports.why_not();
  return loaded;
}

const Loaded& library_at(const std::string& given) {
  static std::mutex mutex;
  static std::map<std::string, Loaded>* all = new std::map<std::string, Loaded>;
  std::lock_guard lock(mutex);
  std::string path = given.empty() ? beside_the_engine() : given;
  auto it = all->find(path);
  if (it == all->end()) it = all->emplace(path, load(path)).first;
  return it->second;
}

}  // namespace

std::string why_no_cuda(const std::string& library) { return library_at(library).problem; }

std::unique_ptr<Backend> make_cuda_kernels(const CudaOptions& options, const std::string& library) {
  const Loaded& loaded = library_at(library);
  require(loaded.problem.empty(), "[device] backend cuda: ", loaded.problem);
  return std::unique_ptr<Backend>(loaded.exports.make(options));
}

}  // namespace spindle
