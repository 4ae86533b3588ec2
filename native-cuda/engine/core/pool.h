// BufferPool: blocks are kept when released and handed out again, so that a step repeats the addresses of the one before and
// asks the system for nothing. Blocks of 2 MiB and more ask for huge pages. Safe to use from one thread at a time per pool.
#pragma once
#include <cstdint>
#include <map>
#include <unordered_map>
#include <vector>

#include "core/tensor.h"

namespace spindle {

class BufferPool : public Allocator {
 public:
  ~BufferPool() override;
  void* allocate(size_t bytes) override;
  void release(void* data, size_t bytes) noexcept override;
  // Gives unused blocks back to the system.
  void trim();

  struct Stats {
    uint64_t system_allocations = 0;  // blocks asked of the system since the start
    size_t held_bytes = 0;            // in use and kept
    size_t used_bytes = 0;
    size_t peak_bytes = 0;            // highest used_bytes
  };
  Stats stats() const { return stats_; }
  void reset_peak() { stats_.peak_bytes = stats_.used_bytes; }

 private:
  static size_t rounded(size_t bytes);
  std::map<size_t, std::vector<void*>> free_;  // by block size
  std::unordered_map<void*, size_t> sizes_;    // of blocks in use
  Stats stats_;
};

}  // namespace spindle
