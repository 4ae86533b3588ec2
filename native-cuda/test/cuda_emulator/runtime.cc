// kernels/cuda/runtime.h in host memory. Fresh "device" memory holds NaN, and writes past a block's
// end are found when it is given back. While it is guarded, it can only be touched by what runs in
// a stream; anything else faults (slow: two system calls per launch).
#include "kernels/cuda/runtime.h"

#include <sys/mman.h>

#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <unordered_map>
#include <utility>
#include <vector>

#include "core/error.h"
#include "cuda_emulator/device.h"
#include "cuda_emulator/memory.h"

struct CUstream_st {
  int device = 0;
  std::vector<std::function<void()>>* captured = nullptr;
};
struct CUevent_st {};

namespace spindle::cuda {
int used_device();
}

namespace spindle::emulator {

namespace {

constexpr size_t kReserved = size_t(8) << 30, kAlign = 256, kGuard = 256;
constexpr unsigned char kGuardByte = 0xa5;

struct Memory {
  std::byte* base = nullptr;
  size_t top = 0, used = 0, total = size_t(4) << 30;
  int open = 0;
  bool guarded = false;
  std::unordered_map<void*, std::pair<size_t, size_t>>
      blocks;                                      // in use: bytes asked for, whole size
  std::map<size_t, std::vector<std::byte*>> free;  // by whole size

  Memory() {
    void* data =
        mmap(nullptr, kReserved, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    ensure(data != MAP_FAILED, "[emulator] no address space");
    base = static_cast<std::byte*>(data);
  }
  void protect(int how) {
    ensure(top == 0 || mprotect(base, top, how) == 0, "[emulator] mprotect failed");
  }
};

Memory& memory() {
  static Memory* m = new Memory;  // outlives static objects that hold tensors
  return *m;
}

}  // namespace

DeviceAccess::DeviceAccess() {
  if (memory().open++ == 0 && memory().guarded) memory().protect(PROT_READ | PROT_WRITE);
}
DeviceAccess::~DeviceAccess() {
  if (--memory().open == 0 && memory().guarded) memory().protect(PROT_NONE);
}

namespace {
Counts counts;
bool replaying = false;
}  // namespace

void enqueue(cuda::Stream stream, std::function<void()> work) {
  ensure(stream != nullptr, "[emulator] no stream");
  ensure(stream->device == cuda::used_device(), "[emulator] work for a stream of device ",
         stream->device, " from a thread that uses device ", cuda::used_device());
  if (stream->captured) {
    stream->captured->push_back(std::move(work));
    return;
  }
  if (!replaying) ++counts.others;
  DeviceAccess access;
  work();
}

}  // namespace spindle::emulator

extern "C" __attribute__((visibility("default"))) void spindle_emulator_set_memory(size_t bytes) {
  spindle::emulator::memory().total = bytes;
}

extern "C" __attribute__((visibility("default"))) void spindle_emulator_counts(
    spindle::emulator::Counts* since) {
  *since = std::exchange(spindle::emulator::counts, {});
}

extern "C" __attribute__((visibility("default"))) void spindle_emulator_guard(bool on) {
  spindle::emulator::memory().guarded = on;
  spindle::emulator::memory().protect(on ? PROT_NONE : PROT_READ | PROT_WRITE);
}

// How often the host waited for all that a stream had been given.
static int64_t waits = 0;
extern "C" __attribute__((visibility("default"))) int64_t spindle_emulator_waits() { return waits; }

namespace spindle::cuda {

using emulator::DeviceAccess;
using emulator::enqueue;
using emulator::memory;

std::string why_no_device() { return {}; }
namespace {
constexpr int kDevices = 2;  // of one memory
thread_local int current_device = 0;
}  // namespace
int device_count() { return kDevices; }
void use_device(int index) {
  require(index >= 0 && index < kDevices, "[cuda] device: expected 0 or 1, got ", index);
  current_device = index;
}
int used_device() { return current_device; }

DeviceInfo device_info(int) {
  DeviceInfo info;
  info.name = "emulated device";
  info.major = 9;
  info.multiprocessors = 1;
  info.total_bytes = memory().total;
  info.free_bytes = memory().total - std::min(memory().total, memory().used);
  return info;
}

void* device_allocate(size_t bytes) {
  using namespace emulator;
  auto& m = memory();
  size_t whole = (bytes + kAlign - 1) / kAlign * kAlign + kGuard;
  if (m.used + bytes > m.total) out_of_memory(bytes, m.total - std::min(m.total, m.used), m.total);
  std::byte* data = nullptr;
  DeviceAccess access;
  if (auto it = m.free.find(whole); it != m.free.end() && !it->second.empty()) {
    data = it->second.back();
    it->second.pop_back();
  } else {
    ensure(m.top + whole <= kReserved, "[emulator] address space used up");
    data = m.base + m.top;
    m.top += whole;
    m.protect(PROT_READ | PROT_WRITE);
  }
  std::memset(data, 0xff, whole - kGuard);
  std::memset(data + bytes, kGuardByte, whole - bytes);
  m.blocks[data] = {bytes, whole};
  m.used += bytes;
  return data;
}

void device_free(void* data) noexcept {
  using namespace emulator;
  auto& m = memory();
  auto it = m.blocks.find(data);
  if (it == m.blocks.end()) std::abort();
  auto [bytes, whole] = it->second;
  DeviceAccess access;
  auto* block = static_cast<std::byte*>(data);
  for (size_t i = bytes; i < whole; ++i)
    if (block[i] != std::byte{kGuardByte}) {
      std::fprintf(stderr, "[emulator] a kernel wrote past the end of a block of %zu bytes\n",
                   bytes);
      std::abort();
    }
  m.used -= bytes;
  m.blocks.erase(it);
  m.free[whole].push_back(block);
}

size_t region_bytes() { return size_t(1) << 20; }

void* pinned_allocate(size_t bytes) {
  void* data = std::malloc(bytes);
  if (!data)
    throw Error(Code::ResourceExhausted,
                cat("[cuda] out of memory: asked for ", bytes, " bytes of pinned memory"));
  return data;
}
void pinned_free(void* data) noexcept { std::free(data); }

Stream create_stream() { return new CUstream_st{.device = current_device}; }
void destroy_stream(Stream stream) noexcept { delete stream; }
void synchronize(Stream stream) {
  ++waits;
  ensure(!stream->captured, "[cuda] synchronised while capturing", in_operation());
  ++emulator::counts.waits;
}

void copy_to_device(void* device, const void* host, size_t bytes, Stream stream) {
  enqueue(stream, [=] { std::memcpy(device, host, bytes); });
}
void copy_to_host(void* host, const void* device, size_t bytes, Stream stream) {
  enqueue(stream, [=] { std::memcpy(host, device, bytes); });
}
void copy_on_device(void* to, const void* from, size_t bytes, Stream stream) {
  enqueue(stream, [=] { std::memcpy(to, from, bytes); });
}
void zero(void* device, size_t bytes, Stream stream) {
  enqueue(stream, [=] { std::memset(device, 0, bytes); });
}

Event create_event() { return new CUevent_st; }
void destroy_event(Event event) noexcept { delete event; }
void record(Event, Stream) {}
void synchronize(Event) {}
void wait(Stream, Event) {}
bool reached(Event) { return true; }
void call_host(std::function<void()> work, Stream stream) { enqueue(stream, std::move(work)); }

namespace {
class EmulatedGraph : public Graph {
 public:
  explicit EmulatedGraph(std::vector<std::function<void()>> work) : work_(std::move(work)) {}
  void launch(Stream stream) override {
    ++emulator::counts.replays;
    emulator::replaying = true;
    for (const auto& each : work_) enqueue(stream, each);
    emulator::replaying = false;
  }
  size_t nodes() const override { return work_.size(); }

 private:
  std::vector<std::function<void()>> work_;
};
}  // namespace

void begin_capture(Stream stream) {
  ensure(!stream->captured, "[cuda] a capture within a capture");
  ++emulator::counts.captures;
  stream->captured = new std::vector<std::function<void()>>;
}
std::unique_ptr<Graph> end_capture(Stream stream) {
  ensure(stream->captured, "[cuda] no capture to end");
  std::unique_ptr<std::vector<std::function<void()>>> work(
      std::exchange(stream->captured, nullptr));
  return std::make_unique<EmulatedGraph>(std::move(*work));
}
void abandon_capture(Stream stream) noexcept { delete std::exchange(stream->captured, nullptr); }
bool capturing(Stream stream) { return stream->captured != nullptr; }

}  // namespace spindle::cuda
