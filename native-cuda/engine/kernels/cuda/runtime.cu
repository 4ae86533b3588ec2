// kernels/cuda/runtime.h on NVIDIA's runtime.
#include "kernels/cuda/device_code.h"
#include "kernels/cuda/runtime.h"

namespace spindle::cuda {

namespace {

void check(cudaError_t status, const char* expression) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // what can be forgotten is
  throw Error(
      status == cudaErrorMemoryAllocation ? Code::ResourceExhausted : Code::Internal,
      cat("[cuda] ", expression, " failed", in_operation(), ": ", cudaGetErrorString(status)));
}
#define SPINDLE_CHECK(expression) check((expression), #expression)

}  // namespace

void check_launch(const char* name, cudaError_t status) {
  if (status != cudaSuccess) check(status, name);
}

std::string why_no_device() {
  int count = 0;
  cudaError_t status = cudaGetDeviceCount(&count);
  if (status == cudaSuccess && count > 0) return {};
  cudaGetLastError();
  int driver = 0, runtime = 0;
  cudaDriverGetVersion(&driver);
  cudaRuntimeGetVersion(&runtime);
  if (status == cudaErrorInsufficientDriver && driver > 0)
    return cat("expected a driver for CUDA ", runtime / 1000, ".", runtime % 1000 / 10,
               ", got one for ", driver / 1000, ".", driver % 1000 / 10);
  if (driver == 0) return "expected an NVIDIA driver, got none";
  return cat("expected an NVIDIA GPU that this process may use, got none (",
             cudaGetErrorString(status), ")");
}

int device_count() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

DeviceInfo device_info(int index) {
  cudaDeviceProp properties;
  SPINDLE_CHECK(cudaGetDeviceProperties(&properties, index));
  DeviceInfo info;
  info.name = properties.name;
  info.major = properties.major;
  info.minor = properties.minor;
  info.multiprocessors = properties.multiProcessorCount;
  use_device(index);
  SPINDLE_CHECK(cudaMemGetInfo(&info.free_bytes, &info.total_bytes));
  SPINDLE_CHECK(cudaDriverGetVersion(&info.driver));
  SPINDLE_CHECK(cudaRuntimeGetVersion(&info.runtime));
  return info;
}

void use_device(int index) { SPINDLE_CHECK(cudaSetDevice(index)); }

void* device_allocate(size_t bytes) {
  void* data = nullptr;
  cudaError_t status = cudaMalloc(&data, bytes);
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    size_t free_bytes = 0, total_bytes = 0;
    SPINDLE_CHECK(cudaMemGetInfo(&free_bytes, &total_bytes));
    out_of_memory(bytes, free_bytes, total_bytes);
  }
  check(status, "cudaMalloc(&data, bytes)");
  return data;
}

// While the process ends, the driver may be gone before the last tensor.
void device_free(void* data) noexcept { cudaFree(data); }

size_t region_bytes() { return size_t(64) << 20; }

void* pinned_allocate(size_t bytes) {
  void* data = nullptr;
  SPINDLE_CHECK(cudaMallocHost(&data, bytes));
  return data;
}
void pinned_free(void* data) noexcept { cudaFreeHost(data); }

Stream create_stream() {
  cudaStream_t stream = nullptr;
  SPINDLE_CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  return stream;
}
void destroy_stream(Stream stream) noexcept { cudaStreamDestroy(stream); }
void synchronize(Stream stream) { SPINDLE_CHECK(cudaStreamSynchronize(stream)); }

void copy_to_device(void* device, const void* host, size_t bytes, Stream stream) {
  SPINDLE_CHECK(cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, stream));
}
void copy_to_host(void* host, const void* device, size_t bytes, Stream stream) {
  SPINDLE_CHECK(cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, stream));
}
void copy_on_device(void* to, const void* from, size_t bytes, Stream stream) {
  SPINDLE_CHECK(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream));
}
void zero(void* device, size_t bytes, Stream stream) {
  SPINDLE_CHECK(cudaMemsetAsync(device, 0, bytes, stream));
}

Event create_event() {
  cudaEvent_t event = nullptr;
  SPINDLE_CHECK(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
  return event;
}
void destroy_event(Event event) noexcept { cudaEventDestroy(event); }
void record(Event event, Stream stream) { SPINDLE_CHECK(cudaEventRecord(event, stream)); }
void synchronize(Event event) { SPINDLE_CHECK(cudaEventSynchronize(event)); }
void wait(Stream stream, Event event) { SPINDLE_CHECK(cudaStreamWaitEvent(stream, event, 0)); }
bool reached(Event event) {
  cudaError_t status = cudaEventQuery(event);
  if (status == cudaErrorNotReady) return false;
  check(status, "cudaEventQuery(event)");
  return true;
}

void call_host(std::function<void()> work, Stream stream) {
  auto kept = std::make_unique<std::function<void()>>(std::move(work));
  auto call = [](void* data) {
    (*std::unique_ptr<std::function<void()>>(static_cast<std::function<void()>*>(data)))();
  };
  SPINDLE_CHECK(cudaLaunchHostFunc(stream, call, kept.get()));
  kept.release();
}

namespace {
class RuntimeGraph : public Graph {
 public:
  explicit RuntimeGraph(cudaGraph_t graph) {
    cudaError_t status = cudaGraphGetNodes(graph, nullptr, &nodes_);
    if (status == cudaSuccess) status = cudaGraphInstantiate(&executable_, graph, 0);
    cudaGraphDestroy(graph);
    check(status, "cudaGraphInstantiate(&executable, graph, 0)");
  }
  ~RuntimeGraph() override { cudaGraphExecDestroy(executable_); }
  void launch(Stream stream) override { SPINDLE_CHECK(cudaGraphLaunch(executable_, stream)); }
  size_t nodes() const override { return nodes_; }

 private:
  cudaGraphExec_t executable_ = nullptr;
  size_t nodes_ = 0;
};
}  // namespace

// Relaxed: the pool may ask for memory meanwhile, which is no work of the stream.
void begin_capture(Stream stream) {
  SPINDLE_CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed));
}

std::unique_ptr<Graph> end_capture(Stream stream) {
  cudaGraph_t graph = nullptr;
  SPINDLE_CHECK(cudaStreamEndCapture(stream, &graph));
  return std::make_unique<RuntimeGraph>(graph);
}

void abandon_capture(Stream stream) noexcept {
  cudaGraph_t graph = nullptr;
  if (cudaStreamEndCapture(stream, &graph) == cudaSuccess && graph) cudaGraphDestroy(graph);
  cudaGetLastError();
}

bool capturing(Stream stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  SPINDLE_CHECK(cudaStreamIsCapturing(stream, &status));
  return status != cudaStreamCaptureStatusNone;
}

}  // namespace spindle::cuda
