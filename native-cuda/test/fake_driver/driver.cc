// Stands for NVIDIA's driver and management libraries, and for a CUDA backend, in gpu_report_test.
#include <cstddef>
#include <cstdio>
#include <cstring>

#define FAKE extern "C" __attribute__((visibility("default")))

static int init_result = 0, devices = 2;

FAKE void fake_set(int result, int count) { init_result = result, devices = count; }

FAKE int cuInit(unsigned) { return init_result; }
FAKE int cuDriverGetVersion(int* version) { return *version = 12080, 0; }
FAKE int cuGetErrorString(int error, const char** text) {
  return *text = error == 999 ? "unknown error" : "no such error", 0;
}
FAKE int cuDeviceGetCount(int* count) { return *count = devices, 0; }
FAKE int cuDeviceGet(int* device, int ordinal) { return *device = ordinal + 40, 0; }
FAKE int cuDeviceGetName(char* name, int length, int device) {
  return std::snprintf(name, size_t(length), "Fake GPU %d", device), 0;
}
FAKE int cuDeviceGetAttribute(int* value, int attribute, int) {
  switch (attribute) {
    case 75:
      *value = 9;
      return 0;
    case 76:
      *value = 0;
      return 0;
    case 16:
      *value = 132;
      return 0;
    default:
      return 1;
  }
}
FAKE int cuDeviceTotalMem_v2(size_t* bytes, int) { return *bytes = size_t(80) << 30, 0; }
FAKE int cuDeviceGetPCIBusId(char* text, int length, int device) {
  return std::snprintf(text, size_t(length), "0000:%d:00.0", device), 0;
}

FAKE int nvmlInit_v2() { return 0; }
FAKE int nvmlShutdown() { return 0; }
FAKE int nvmlSystemGetDriverVersion(char* text, unsigned length) {
  return std::snprintf(text, length, "570.1"), 0;
}
FAKE int nvmlDeviceGetHandleByPciBusId_v2(const char* bus_id, void** device) {
  static char first;
  *device = &first;
  return std::strcmp(bus_id, "0000:40:00.0") == 0 ? 0 : 6;  // the other one is not found
}
FAKE int nvmlDeviceGetMemoryInfo(void*, unsigned long long* memory) {
  return memory[0] = 0, memory[1] = 70ull << 30, memory[2] = 0, 0;
}

FAKE const char* spindle_cuda_versions() { return "CUDA runtime\t13.0\ncuDNN\t9.15.1\n"; }
