// The CUDA runtime as the backend uses it: devices, memory, streams, events, graphs. Two
// implementations: runtime.cu on NVIDIA's runtime, and test/cuda_emulator/ in host memory. Every
// failure is an Error with the expression that failed and the kernel call (with its shapes) that it
// happened in.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

struct CUstream_st;  // cudaStream_t and cudaEvent_t point to these
struct CUevent_st;

namespace spindle::cuda {

using Stream = CUstream_st*;
using Event = CUevent_st*;

// Why no device can be used, as one sentence; empty when there is one.
std::string why_no_device();
int device_count();

struct DeviceInfo {
  std::string name;
  int major = 0, minor = 0;  // compute capability
  int multiprocessors = 0;
  size_t total_bytes = 0, free_bytes = 0;
  int driver = 0, runtime = 0;  // as CUDA numbers them: 12040 is 12.4
};
DeviceInfo device_info(int index);
// Of the calling thread, from now on.
void use_device(int index);

// 256-byte aligned. Running out says how much was asked for, free and there, and what to lower.
void* device_allocate(size_t bytes);
void device_free(void* data) noexcept;
// How much of it to ask for at once.
size_t region_bytes();
// Host memory that copies to and from the device run beside the host's work.
void* pinned_allocate(size_t bytes);
void pinned_free(void* data) noexcept;

Stream create_stream();
void destroy_stream(Stream stream) noexcept;
void synchronize(Stream stream);
// All in the stream's order; `host` has to stay until then.
void copy_to_device(void* device, const void* host, size_t bytes, Stream stream);
void copy_to_host(void* host, const void* device, size_t bytes, Stream stream);
void copy_on_device(void* to, const void* from, size_t bytes, Stream stream);
void zero(void* device, size_t bytes, Stream stream);

Event create_event();
void destroy_event(Event event) noexcept;
void record(Event event, Stream stream);
void synchronize(Event event);
void wait(Stream stream, Event event);
// Whether all that it was recorded behind is done; never waits.
bool reached(Event event);
// Calls `work` on a thread of the runtime, in the stream's order. It may block, but ask nothing of
// the device.
void call_host(std::function<void()> work, Stream stream);

// What was put into a stream between begin_capture and end_capture, to be done again as often as
// asked. Addresses and arguments are those of the capture; while capturing nothing runs and nothing
// may synchronise.
class Graph {
 public:
  virtual ~Graph() = default;
  virtual void launch(Stream stream) = 0;
  virtual size_t nodes() const = 0;
};
void begin_capture(Stream stream);
std::unique_ptr<Graph> end_capture(Stream stream);
// Ends a capture that went wrong; never throws.
void abandon_capture(Stream stream) noexcept;
bool capturing(Stream stream);

// The kernel call that errors are reported with, innermost last. `describe` is called only when
// something went wrong.
class Operation {
 public:
  virtual std::string describe() const = 0;

 protected:
  Operation();
  ~Operation();
  Operation(const Operation&) = delete;

 private:
  const Operation* outer_;
};
// " in linear_forward (64, 320) * (320, 320)", or nothing outside of calls.
std::string in_operation();
// What is thrown where device memory runs out; `system` is the runtime's word for it.
[[noreturn]] void out_of_memory(size_t asked, size_t free_bytes, size_t total_bytes);

}  // namespace spindle::cuda
