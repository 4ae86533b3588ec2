// BufferPool: blocks are kept when released and handed out again, so that a step repeats the
// addresses of the one before and asks the system for nothing. Safe to use from one thread at a
// time per pool.
//
// Small blocks are kept by size class. Large ones are cut from regions of at least 64 MiB, the
// smallest piece that fits, and pieces grow together again when their neighbours are free; a
// region's pages become resident as they are first used. Memory of 2 MiB and more asks for huge
// pages.
#pragma once
#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <unordered_map>
#include <utility>
#include <vector>

#include "core/tensor.h"

namespace spindle {

// Where a pool's blocks come from: the system's memory, or a device's.
class BlockSource {
 public:
  virtual ~BlockSource() = default;
  // Aligned to 64 bytes, a region to 2 MiB where that means anything. Throws
  // Error(ResourceExhausted); `held` is what the pool has already.
  virtual void* allocate(size_t bytes, bool region, size_t held) = 0;
  virtual void free(void* data) noexcept = 0;
  // The values in there are not needed any more; true when that gave pages back to the system.
  virtual bool discard(void* /*data*/, size_t /*bytes*/) noexcept { return false; }
  // Smallest region that large blocks are cut from.
  virtual size_t region_bytes() const { return size_t(64) << 20; }
};
std::shared_ptr<BlockSource> host_blocks();

class BufferPool : public Allocator {
 public:
  explicit BufferPool(std::shared_ptr<BlockSource> source = host_blocks())
      : source_(std::move(source)) {}
  ~BufferPool() override;
  void* allocate(size_t bytes) override;
  void release(void* data, size_t bytes) noexcept override;
  // Gives unused memory back to the system: free small blocks and free regions, and the pages of
  // free pieces.
  void trim();
  // From now on, running out of memory is no reason to trim: captured work has addresses of what is
  // kept here.
  void hold(bool on = true) { held_ = on; }

  struct Stats {
    uint64_t system_allocations = 0;  // blocks and regions asked of the system since the start
    size_t held_bytes = 0;            // in use and kept, free pieces of regions included
    size_t used_bytes = 0;
    size_t peak_bytes = 0;  // highest used_bytes
  };
  Stats stats() const { return stats_; }
  void reset_peak() { stats_.peak_bytes = stats_.used_bytes; }

 private:
  struct Piece {
    size_t size;
    bool free;
    bool first;  // starts a region
    bool fresh;  // free since the region was made or trimmed: none of its pages is resident
  };
  using Pieces = std::map<std::byte*, Piece>;

  static size_t rounded(size_t bytes);
  void* small_block(size_t size);
  void* large_block(size_t size);
  Pieces::iterator add_region(size_t size);
  void* from_source(size_t size, bool region);

  std::shared_ptr<BlockSource> source_;
  std::map<size_t, std::vector<void*>> small_free_;  // by size
  std::unordered_map<void*, size_t> small_sizes_;    // of small blocks in use
  Pieces pieces_;                                    // of all regions, by address
  std::set<std::pair<size_t, std::byte*>> free_;     // free pieces, smallest first
  Stats stats_;
  bool held_ = false;
};

}  // namespace spindle
