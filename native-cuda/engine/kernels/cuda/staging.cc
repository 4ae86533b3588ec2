#include "kernels/cuda/staging.h"

#include <algorithm>
#include <cstring>

namespace spindle::cuda {

Staging::~Staging() {
  for (Buffer& b : buffers_) {
    if (b.copied) destroy_event(b.copied);
    if (b.data) pinned_free(b.data);
    if (b.device) device_free(b.device);
  }
  if (crossed_) destroy_event(crossed_);
  if (aside_) destroy_stream(aside_);
}

// The other buffer, once its copies are done.
Staging::Buffer& Staging::next() {
  current_ = 1 - current_;
  Buffer& b = buffers_[current_];
  if (!b.data) {
    b.data = static_cast<std::byte*>(pinned_allocate(kBytes));
    b.copied = create_event();
  } else if (b.used > 0) {
    synchronize(b.copied);
  }
  b.used = 0;
  return b;
}

void Staging::upload(void* device, const void* host, size_t bytes, Stream stream) {
  auto* to = static_cast<std::byte*>(device);
  auto* from = static_cast<const std::byte*>(host);
  while (bytes > 0) {
    Buffer* b = &buffers_[current_];
    size_t first = (b->used + 63) / 64 * 64;
    if (!b->data || first + std::min<size_t>(bytes, 64) > kBytes) {
      b = &next();
      first = 0;
    }
    size_t piece = std::min(bytes, kBytes - first);
    std::memcpy(b->data + first, from, piece);
    if (piece < kAside) {
      copy_to_device(to, b->data + first, piece, stream);
    } else {
      if (!aside_) aside_ = create_stream();
      if (!crossed_) crossed_ = create_event();
      if (!b->device) b->device = static_cast<std::byte*>(device_allocate(kBytes));
      copy_to_device(b->device + first, b->data + first, piece, aside_);
      record(crossed_, aside_);
      wait(stream, crossed_);
      copy_on_device(to, b->device + first, piece, stream);
    }
    record(b->copied, stream);
    b->used = first + piece;
    to += piece;
    from += piece;
    bytes -= piece;
  }
}

void Staging::download(void* host, const void* device, size_t bytes, Stream stream) {
  auto* to = static_cast<std::byte*>(host);
  auto* from = static_cast<const std::byte*>(device);
  while (bytes > 0) {
    Buffer& b = next();
    size_t piece = std::min(bytes, kBytes);
    copy_to_host(b.data, from, piece, stream);
    synchronize(stream);
    std::memcpy(to, b.data, piece);
    to += piece;
    from += piece;
    bytes -= piece;
  }
}

}  // namespace spindle::cuda
