#include "core/pool.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <iterator>

namespace spindle {

namespace {
constexpr size_t kHugePage = size_t(2) << 20;
constexpr size_t kSmall = size_t(256) << 10;  // blocks below have classes, others come from regions
constexpr size_t kPage = 4096;                // pieces of regions are multiples of it

size_t round_to(size_t bytes, size_t step) { return (bytes + step - 1) / step * step; }

class HostBlocks : public BlockSource {
 public:
  void* allocate(size_t bytes, bool region, size_t held) override {
    size_t alignment = region ? kHugePage : 64;
    void* data = std::aligned_alloc(alignment, round_to(bytes, alignment));
    if (!data)
      throw Error(Code::ResourceExhausted,
                  cat("out of memory: asked for ", bytes >> 20, " MiB with ", held >> 20,
                      " MiB held; lower the batch size or the resolution"));
    if (region) madvise(data, bytes, MADV_HUGEPAGE);
    return data;
  }
  void free(void* data) noexcept override { std::free(data); }
  bool discard(void* data, size_t bytes) noexcept override {
    return madvise(data, bytes, MADV_DONTNEED) == 0;
  }
};
}  // namespace

std::shared_ptr<BlockSource> host_blocks() {
  static std::shared_ptr<BlockSource> blocks = std::make_shared<HostBlocks>();
  return blocks;
}

// Small blocks: steps of a thirty-second of the size, so that little is lost and blocks of similar
// size are shared.
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
  for (auto it = small_free_.lower_bound(size);
       it != small_free_.end() && it->first <= size + size / 2; ++it) {
    if (it->second.empty()) continue;
    void* data = it->second.back();
    it->second.pop_back();
    small_sizes_[data] = it->first;
    stats_.used_bytes += it->first;
    return data;
  }
  void* data = from_source(size, false);
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
    pieces_.emplace_hint(std::next(piece), data + size,
                         Piece{whole.size - size, true, false, whole.fresh});
    free_.insert({whole.size - size, data + size});
  }
  stats_.used_bytes += size;
  return data;
}

BufferPool::Pieces::iterator BufferPool::add_region(size_t size) {
  size = round_to(std::max(size, source_->region_bytes()),
                  source_->region_bytes() < kHugePage ? kPage : kHugePage);
  auto* data = static_cast<std::byte*>(from_source(size, true));
  free_.insert({size, data});
  return pieces_.insert({data, {size, true, true, true}}).first;
}

void* BufferPool::from_source(size_t size, bool region) {
  void* data;
  try {
    data = source_->allocate(size, region, stats_.held_bytes);
  } catch (const Error& error) {
    if (held_ || error.code() != Code::ResourceExhausted || stats_.held_bytes == stats_.used_bytes)
      throw;
    trim();  // what is kept for later may be all that is missing
    data = source_->allocate(size, region, stats_.held_bytes);
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
  if (auto next = std::next(piece);
      next != pieces_.end() && next->second.free && !next->second.first) {
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
    for (void* block : blocks) source_->free(block);
    stats_.held_bytes -= size * blocks.size();
    blocks.clear();
  }
  for (auto piece = pieces_.begin(); piece != pieces_.end();) {
    auto next = std::next(piece);
    auto& [data, p] = *piece;
    if (p.free && p.first && (next == pieces_.end() || next->second.first)) {
      free_.erase({p.size, data});
      stats_.held_bytes -= p.size;
      source_->free(data);
      pieces_.erase(piece);
    } else if (p.free && !p.fresh) {
      p.fresh = source_->discard(data, p.size);
    }
    piece = next;
  }
}

BufferPool::~BufferPool() { trim(); }

}  // namespace spindle
