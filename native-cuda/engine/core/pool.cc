#include "core/pool.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <iterator>

namespace spindle {

namespace {
constexpr size_t kHugePage = size_t(2) << 20;
constexpr size_t kSmall = size_t(256) << 10;   // blocks below have classes, others come from regions
constexpr size_t kRegion = size_t(64) << 20;
constexpr size_t kPage = 4096;                 // pieces of regions are multiples of it

size_t round_to(size_t bytes, size_t step) { return (bytes + step - 1) / step * step; }
}  // namespace

// Small blocks: steps of a thirty-second of the size, so that little is lost and blocks of similar size are shared.
size_t BufferPool::rounded(size_t bytes) {
  if (bytes >= kSmall) return round_to(bytes, kPage);
  bytes = std::max<size_t>(bytes, 64);
  size_t step = 64;
  while (step * 64 <= bytes) step *= 2;
  return round_to(bytes, step);
}

void* BufferPool::allocate(size_t bytes) {
  size_t size = rounded(bytes);
  void* data = size < kSmall ? small_block(size) : large_block(size);
  stats_.peak_bytes = std::max(stats_.peak_bytes, stats_.used_bytes);
  return data;
}

void* BufferPool::small_block(size_t size) {
  // The smallest free block that is not much too large.
  for (auto it = small_free_.lower_bound(size); it != small_free_.end() && it->first <= size + size / 2; ++it) {
    if (it->second.empty()) continue;
    void* data = it->second.back();
    it->second.pop_back();
    small_sizes_[data] = it->first;
    stats_.used_bytes += it->first;
    return data;
  }
  void* data = from_system(size, 64);
  small_sizes_[data] = size;
  stats_.used_bytes += size;
  return data;
}

void* BufferPool::large_block(size_t size) {
  auto smallest = free_.lower_bound({size, nullptr});
  auto piece = smallest != free_.end() ? pieces_.find(smallest->second) : add_region(size);
  auto [data, whole] = *piece;
  free_.erase({whole.size, data});
  piece->second = {size, false, whole.first, false};
  if (whole.size > size) {
    pieces_.emplace_hint(std::next(piece), data + size, Piece{whole.size - size, true, false, whole.fresh});
    free_.insert({whole.size - size, data + size});
  }
  stats_.used_bytes += size;
  return data;
}

BufferPool::Pieces::iterator BufferPool::add_region(size_t size) {
  size = round_to(std::max(size, kRegion), kHugePage);
  auto* data = static_cast<std::byte*>(from_system(size, kHugePage));
  madvise(data, size, MADV_HUGEPAGE);
  free_.insert({size, data});
  return pieces_.insert({data, {size, true, true, true}}).first;
}

void* BufferPool::from_system(size_t size, size_t alignment) {
  void* data = std::aligned_alloc(alignment, round_to(size, alignment));
  if (!data) {
    throw Error(Code::ResourceExhausted, cat("out of memory: asked for ", size >> 20, " MiB with ", stats_.held_bytes >> 20,
                                             " MiB held; lower the batch size or the resolution"));
  }
  ++stats_.system_allocations;
  stats_.held_bytes += size;
  return data;
}

void BufferPool::release(void* data, size_t) noexcept {
  if (auto small = small_sizes_.find(data); small != small_sizes_.end()) {
    stats_.used_bytes -= small->second;
    small_free_[small->second].push_back(data);
    small_sizes_.erase(small);
    return;
  }
  auto piece = pieces_.find(static_cast<std::byte*>(data));
  stats_.used_bytes -= piece->second.size;
  piece->second.free = true;
  auto join = [&](Pieces::iterator left, Pieces::iterator right) {
    left->second.size += right->second.size;
    left->second.fresh = left->second.fresh && right->second.fresh;
    pieces_.erase(right);
    return left;
  };
  if (auto next = std::next(piece); next != pieces_.end() && next->second.free && !next->second.first) {
    free_.erase({next->second.size, next->first});
    join(piece, next);
  }
  if (!piece->second.first) {
    if (auto before = std::prev(piece); before->second.free) {
      free_.erase({before->second.size, before->first});
      piece = join(before, piece);
    }
  }
  free_.insert({piece->second.size, piece->first});
}

void BufferPool::trim() {
  for (auto& [size, blocks] : small_free_) {
    for (void* block : blocks) std::free(block);
    stats_.held_bytes -= size * blocks.size();
    blocks.clear();
  }
  for (auto piece = pieces_.begin(); piece != pieces_.end();) {
    auto next = std::next(piece);
    auto& [data, p] = *piece;
    if (p.free && p.first && (next == pieces_.end() || next->second.first)) {
      free_.erase({p.size, data});
      stats_.held_bytes -= p.size;
      std::free(data);
      pieces_.erase(piece);
    } else if (p.free && !p.fresh) {
      madvise(data, p.size, MADV_DONTNEED);
      p.fresh = true;
    }
    piece = next;
  }
}

BufferPool::~BufferPool() { trim(); }

}  // namespace spindle
