#include "kernels/gpu_report.h"

#include <dlfcn.h>
#include <unistd.h>

#include <memory>
#include <sstream>

#include "core/error.h"

namespace spindle {

namespace {

// Of cuda.h; these numbers never change.
enum Attribute : int { kMultiprocessors = 16, kMajor = 75, kMinor = 76 };
constexpr int kNoDevice = 100;

class Library {
 public:
  explicit Library(const std::string& file) : handle_(dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL)) {
    if (!handle_) {
      const char* why = dlerror();
      problem_ = why ? why : file;
    }
  }
  ~Library() {
    if (handle_) dlclose(handle_);
  }
  Library(const Library&) = delete;
  explicit operator bool() const { return handle_ != nullptr; }
  const std::string& problem() const { return problem_; }

  // False when the library has no such function, else whether it returned 0.
  template <class... Parameters, class... Arguments>
  bool call(int (*)(Parameters...), const char* name, Arguments... arguments) const {
    auto* function = reinterpret_cast<int (*)(Parameters...)>(find(name));
    return function && function(arguments...) == 0;
  }
  void* find(const char* name) const { return handle_ ? dlsym(handle_, name) : nullptr; }

 private:
  void* handle_;
  std::string problem_;
};

template <class... Parameters>
constexpr int (*kSignature)(Parameters...) = nullptr;

struct NvmlMemory {
  unsigned long long total = 0, free = 0, used = 0;
};

// NVML knows what the driver's library does not say without making a context: its version and the
// free memory.
class Management {
 public:
  explicit Management(const std::string& file)
      : library_(file), open_(library_.call(kSignature<>, "nvmlInit_v2")) {}
  ~Management() {
    if (open_) library_.call(kSignature<>, "nvmlShutdown");
  }
  std::string driver_version() const {
    char text[96] = {};
    return open_ && library_.call(kSignature<char*, unsigned>, "nvmlSystemGetDriverVersion", text,
                                  unsigned(sizeof text))
               ? text
               : "";
  }
  int64_t free_bytes(const char* bus_id) const {
    void* device = nullptr;
    NvmlMemory memory;
    if (!open_ ||
        !library_.call(kSignature<const char*, void**>, "nvmlDeviceGetHandleByPciBusId_v2", bus_id,
                       &device) ||
        !library_.call(kSignature<void*, NvmlMemory*>, "nvmlDeviceGetMemoryInfo", device, &memory))
      return -1;
    return int64_t(memory.free);
  }

 private:
  Library library_;
  bool open_;
};

std::string beside_the_engine() {
  const char* name = "spindle_cuda.so";
  Dl_info info;
  if (dladdr(reinterpret_cast<void*>(&beside_the_engine), &info) == 0 || !info.dli_fname)
    return name;
  std::string path = info.dli_fname;
  size_t slash = path.rfind('/');
  return (slash == std::string::npos ? "./" : path.substr(0, slash + 1)) + name;
}

}  // namespace

std::string cuda_version_text(int version) { return cat(version / 1000, ".", version % 1000 / 10); }

GpuReport read_gpus(const std::string& driver, const std::string& management) {
  GpuReport report;
  Library cuda(driver);
  if (!cuda) {
    report.problem = cat("no NVIDIA driver (", cuda.problem(), ")");
    return report;
  }
  Management nvml(management);
  report.driver = nvml.driver_version();
  auto* init = reinterpret_cast<int (*)(unsigned)>(cuda.find("cuInit"));
  if (!init) {
    report.problem = cat(driver, " is not NVIDIA's driver");
    return report;
  }
  const int status = init(0);
  cuda.call(kSignature<int*>, "cuDriverGetVersion", &report.cuda);
  if (status != 0) {
    const char* text = nullptr;
    cuda.call(kSignature<int, const char**>, "cuGetErrorString", status, &text);
    report.problem =
        status == kNoDevice
            ? std::string("the NVIDIA driver sees no device")
            : cat("the NVIDIA driver does not start: ", text ? text : "error", " (", status, ")");
    return report;
  }
  int count = 0;
  if (!cuda.call(kSignature<int*>, "cuDeviceGetCount", &count) || count == 0) {
    report.problem = "the NVIDIA driver sees no device";
    return report;
  }
  for (int i = 0; i < count; ++i) {
    int device = 0;
    char name[256] = {}, bus_id[32] = {};
    size_t bytes = 0;
    if (!cuda.call(kSignature<int*, int>, "cuDeviceGet", &device, i)) continue;
    GpuDevice gpu;
    gpu.index = i;
    if (cuda.call(kSignature<char*, int, int>, "cuDeviceGetName", name, int(sizeof name) - 1,
                  device))
      gpu.name = name;
    auto attribute = [&](int& value, Attribute which) {
      cuda.call(kSignature<int*, int, int>, "cuDeviceGetAttribute", &value, int(which), device);
    };
    attribute(gpu.major, kMajor);
    attribute(gpu.minor, kMinor);
    attribute(gpu.multiprocessors, kMultiprocessors);
    if (cuda.call(kSignature<size_t*, int>, "cuDeviceTotalMem_v2", &bytes, device))
      gpu.total_bytes = bytes;
    if (cuda.call(kSignature<char*, int, int>, "cuDeviceGetPCIBusId", bus_id,
                  int(sizeof bus_id) - 1, device))
      gpu.free_bytes = nvml.free_bytes(bus_id);
    report.devices.push_back(std::move(gpu));
  }
  return report;
}

CudaBackendReport read_cuda_backend(const std::string& path) {
  CudaBackendReport report;
  report.path = path.empty() ? beside_the_engine() : path;
  if (access(report.path.c_str(), R_OK) != 0) {
    report.problem = "this build has no CUDA backend";
    return report;
  }
  // Kept open: CUDA's libraries do not like to be closed.
  static auto* open = new std::vector<std::unique_ptr<Library>>;
  Library& library = *open->emplace_back(std::make_unique<Library>(report.path));
  if (!library) {
    report.problem = cat("the CUDA backend cannot be loaded: ", library.problem());
    return report;
  }
  auto* versions = reinterpret_cast<const char* (*)()>(library.find("spindle_cuda_versions"));
  if (!versions) {
    report.problem = cat(report.path, " is not Spindle's CUDA backend");
    return report;
  }
  std::istringstream lines(versions());
  for (std::string line; std::getline(lines, line);)
    if (size_t tab = line.find('\t'); tab != std::string::npos)
      report.libraries.push_back({line.substr(0, tab), line.substr(tab + 1)});
  return report;
}

}  // namespace spindle
