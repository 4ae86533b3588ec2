// What doctor says of GPUs, against a driver that is made up: machines with and without one, and
// broken ones.
#include <dlfcn.h>

#include <filesystem>

#include "check.h"
#include "kernels/gpu_report.h"

using namespace spindle;

namespace {

std::string fake() {
  return (std::filesystem::read_symlink("/proc/self/exe").parent_path() / "fake_driver.so")
      .string();
}

void set(int result, int count) {
  void* handle = dlopen(fake().c_str(), RTLD_NOW);
  ensure(handle, "no fake driver: ", fake());
  reinterpret_cast<void (*)(int, int)>(dlsym(handle, "fake_set"))(result, count);
}

}  // namespace

TEST("gpus: driver, devices, memory and capabilities") {
  set(0, 2);
  GpuReport report = read_gpus(fake(), fake());
  CHECK_EQUAL(report.problem, "");
  CHECK_EQUAL(report.driver, "570.1");
  CHECK_EQUAL(cuda_version_text(report.cuda), "12.8");
  CHECK_EQUAL(report.devices.size(), size_t(2));
  const GpuDevice& gpu = report.devices[0];
  CHECK_EQUAL(gpu.name, "Fake GPU 40");
  CHECK(gpu.index == 0 && gpu.major == 9 && gpu.minor == 0 && gpu.multiprocessors == 132);
  CHECK(gpu.total_bytes == uint64_t(80) << 30 && gpu.free_bytes == int64_t(70) << 30);
  CHECK_EQUAL(report.devices[1].index, 1);
  CHECK_EQUAL(report.devices[1].free_bytes, -1);
}

TEST("gpus: a machine without management library, without driver, without device") {
  set(0, 1);
  GpuReport report = read_gpus(fake(), "/nowhere/libnvidia-ml.so.1");
  CHECK_EQUAL(report.driver, "");
  CHECK(report.devices.size() == 1 && report.devices[0].free_bytes == -1);
  CHECK(read_gpus("/nowhere/libcuda.so.1", fake())
            .problem.starts_with("no NVIDIA driver (/nowhere/libcuda.so.1"));
  set(100, 0);
  CHECK_EQUAL(read_gpus(fake(), fake()).problem, "the NVIDIA driver sees no device");
  set(0, 0);
  CHECK_EQUAL(read_gpus(fake(), fake()).problem, "the NVIDIA driver sees no device");
  set(999, 0);
  CHECK_EQUAL(read_gpus(fake(), fake()).problem,
              "the NVIDIA driver does not start: unknown error (999)");
  CHECK_EQUAL(read_gpus("libm.so.6", fake()).problem, "libm.so.6 is not NVIDIA's driver");
}

TEST("gpus: the backend's libraries, or why there is no backend") {
  CudaBackendReport report = read_cuda_backend(fake());
  CHECK_EQUAL(report.problem, "");
  CHECK_EQUAL(report.libraries.size(), size_t(2));
  CHECK(report.libraries[1].name == "cuDNN" && report.libraries[1].version == "9.15.1");
  CHECK_EQUAL(read_cuda_backend("/nowhere/spindle_cuda.so").problem,
              "this build has no CUDA backend");
  CHECK(read_cuda_backend("/proc/self/exe")
            .problem.starts_with("the CUDA backend cannot be loaded: "));
  CHECK(read_cuda_backend().path.ends_with("/spindle_cuda.so"));
}
