#include "core/pool.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>

namespace spindle {

namespace {
constexpr size_t kHugePage = size_t(2) << 20;
}

// Steps of a thirty-second of the size: little is lost, and blocks of similar size are shared.
size_t BufferPool::rounded(size_t bytes) {
  bytes = std::max<size_t>(bytes, 64);
  size_t step = 64;
  while (step * 64 <= bytes) step *= 2;
  return (bytes + step - 1) / step * step;
}

void* BufferPool::allocate(size_t bytes) {
  size_t size = rounded(bytes);
  auto hand_out = [&](void* data, size_t block) {
    sizes_[data] = block;
    stats_.used_bytes += block;
    stats_.peak_bytes = std::max(stats_.peak_bytes, stats_.used_bytes);
    return data;
  };
  // The smallest free block that is not much too large.
  for (auto it = free_.lower_bound(size); it != free_.end() && it->first <= size + size / 2; ++it) {
    if (it->second.empty()) continue;
    void* data = it->second.back();
    it->second.pop_back();
    return hand_out(data, it->first);
  }
  size_t alignment = size >= kHugePage ? kHugePage : 64;
  void* data = std::aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
  if (!data) {
    throw Error(Code::ResourceExhausted, cat("out of memory: asked for ", size >> 20, " MiB with ", stats_.held_bytes >> 20,
                                             " MiB held; lower the batch size or the resolution"));
  }
  if (size >= kHugePage) madvise(data, size, MADV_HUGEPAGE);
  ++stats_.system_allocations;
  stats_.held_bytes += size;
  return hand_out(data, size);
}

void BufferPool::release(void* data, size_t) noexcept {
  auto it = sizes_.find(data);
  size_t size = it->second;
  sizes_.erase(it);
  stats_.used_bytes -= size;
  free_[size].push_back(data);
}

void BufferPool::trim() {
  for (auto& [size, blocks] : free_) {
    for (void* block : blocks) std::free(block);
    stats_.held_bytes -= size * blocks.size();
    blocks.clear();
  }
}

BufferPool::~BufferPool() { trim(); }

}  // namespace spindle
