// Pinned host memory between the caller's and the device's: an upload returns when the values are out of the caller's memory, and
// the copy to the device runs beside what the host does next.
#pragma once
#include <array>

#include "kernels/cuda/runtime.h"

namespace spindle::cuda {

class Staging {
 public:
  static constexpr size_t kBytes = size_t(8) << 20;
  ~Staging();
  void upload(void* device, const void* host, size_t bytes, Stream stream);
  // Returns when the values are there.
  void download(void* host, const void* device, size_t bytes, Stream stream);

 private:
  struct Buffer {
    std::byte* data = nullptr;
    size_t used = 0;        // bytes whose copy may not have happened yet
    Event copied = nullptr;  // after the last of them
  };
  Buffer& next();
  std::array<Buffer, 2> buffers_;
  size_t current_ = 0;
};

}  // namespace spindle::cuda
