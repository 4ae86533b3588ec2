// Pinned host memory between the caller's and the device's: an upload returns when the values are
// out of the caller's memory, and the copy to the device runs beside what the host does next. Large
// ones also run beside what the stream was given before: they cross on a stream of their own, into
// memory that nothing else uses, and are put in place in the stream's order.
#pragma once
#include <array>

#include "kernels/cuda/runtime.h"

namespace spindle::cuda {

class Staging {
 public:
  static constexpr size_t kBytes = size_t(8) << 20;
  static constexpr size_t kAside = size_t(64) << 10;  // from here on
  ~Staging();
  void upload(void* device, const void* host, size_t bytes, Stream stream);
  // Returns when the values are there.
  void download(void* host, const void* device, size_t bytes, Stream stream);

 private:
  struct Buffer {
    std::byte* data = nullptr;
    std::byte* device = nullptr;  // as large, once something crossed aside
    size_t used = 0;              // bytes that may not be in place yet
    Event copied = nullptr;       // after the last of them, in the stream
  };
  Buffer& next();
  std::array<Buffer, 2> buffers_;
  size_t current_ = 0;
  Stream aside_ = nullptr;
  Event crossed_ = nullptr;
};

}  // namespace spindle::cuda
