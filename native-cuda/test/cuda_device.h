// The device that CUDA tests run on. Each test program runs twice: on the emulated device, and,
// with SPINDLE_TEST_CUDA=device (label `cuda`), on a real one if there is one.
#pragma once
#include <dlfcn.h>

#include <cstdlib>
#include <filesystem>
#include <string>

#include "autograd/device.h"
#include "check.h"
#include "kernels/cuda_loader.h"

namespace spindle {

inline bool on_real_device() {
  const char* where = std::getenv("SPINDLE_TEST_CUDA");
  return where && std::string(where) == "device";
}

inline std::string cuda_library() {
  std::string name = on_real_device() ? "spindle_cuda.so" : "spindle_cuda_emulated.so";
  return (std::filesystem::read_symlink("/proc/self/exe").parent_path() / name).string();
}

// Programs for a real device count nothing where there is none.
inline const bool skipping_registered = [] {
  check::state().whose = "cuda";
  check::state().why_not = [] {
    std::string why = on_real_device() ? why_no_cuda(cuda_library()) : std::string();
    return why.empty() ? why : cat("no device (", why, ")");
  };
  return true;
}();

inline DeviceOptions cuda_options() {
  return {.backend = "cuda", .threads = 2, .isa = "auto", .cuda_library = cuda_library()};
}

// A function that only the emulated device has.
template <class F>
F emulator_function(const char* name) {
  return reinterpret_cast<F>(dlsym(dlopen(cuda_library().c_str(), RTLD_NOW | RTLD_NOLOAD), name));
}

// Float32 values there.
inline Tensor from_values(Device& device, const std::vector<float>& values) {
  Tensor t = device.empty({int64_t(values.size())}, DType::F32);
  device.upload(t, values.data());
  return t;
}

}  // namespace spindle
