// What NVIDIA GPUs this machine has and what the CUDA backend beside the engine was built with, for
// `doctor`: asked of the driver's own library when it is called, so that the engine needs nothing
// of CUDA to say it.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace spindle {

struct GpuDevice {
  int index = 0;
  std::string name;
  int major = 0, minor = 0;  // compute capability
  int multiprocessors = 0;
  uint64_t total_bytes = 0;
  int64_t free_bytes = -1;  // -1: not known
};

struct GpuReport {
  std::string problem;  // why no GPU can be used, one sentence; empty: there is one
  std::string driver;   // such as "580.65.06"; empty: not known
  int cuda = 0;         // the newest CUDA that the driver runs, 13000 for 13.0
  std::vector<GpuDevice> devices;
};

// `driver` and `management` are the files of the driver's and of NVML's libraries. Never throws.
GpuReport read_gpus(const std::string& driver = "libcuda.so.1",
                    const std::string& management = "libnvidia-ml.so.1");

struct CudaBackendReport {
  std::string problem;  // why there is no backend, one sentence; empty: there is one
  std::string path;
  struct Library {
    std::string name, version;
  };
  std::vector<Library> libraries;  // as loaded
};

// `path`: the backend's file; empty: spindle_cuda.so beside the addon or program that this is in.
CudaBackendReport read_cuda_backend(const std::string& path = {});

// "13.0" of 13000
std::string cuda_version_text(int version);

}  // namespace spindle
