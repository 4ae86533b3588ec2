// Right-hand sides of products in the form that the tile kernels read, and the memory they lie in.
#pragma once
#include <array>
#include <unordered_map>

#include "core/pool.h"
#include "core/thread_pool.h"
#include "kernels/cpu/elements.h"
#include "kernels/cpu/isa/simd.h"
#include "kernels/kernels.h"

namespace spindle::cpu {

// A right-hand side cut into column panels for the tile kernels: panel p holds columns [p * panel,
// ...) of every tap.
struct Packed {
  const std::byte* data = nullptr;
  int64_t taps = 0, k = 0, n = 0;
  int64_t panel = 0;  // columns of a full panel
  int64_t width = 0;  // the vector's width: the last panel is rounded up to it
  DType dtype = DType::F32;

  int64_t panels() const { return divide_up(n, panel); }
  int64_t panel_width(int64_t p) const { return std::min(panel, round_up(n - p * panel, width)); }
  int64_t k_rows() const { return dtype == DType::BF16 ? (k + 1) / 2 : k; }  // packed rows of a tap
  // A float, or a pair of bfloat16, of each column.
  int64_t row_bytes(int64_t p) const { return panel_width(p) * 4; }
  int64_t panel_offset(int64_t p) const { return p * panel * taps * k_rows() * 4; }  // bytes
  const std::byte* block(int64_t p, int64_t tap, int64_t k0) const {
    int64_t rows = tap * k_rows() + (dtype == DType::BF16 ? k0 / 2 : k0);
    return data + panel_offset(p) + rows * row_bytes(p);
  }
  int64_t bytes() const { return round_up(n, width) * taps * k_rows() * 4; }
};

// Where element (tap, k, n) of a right-hand side lies: base + n * n_stride + tap * tap_stride + k *
// k_stride (elements).
struct PackSource {
  const void* base;
  DType dtype;
  int64_t taps, k, n;
  int64_t tap_stride, k_stride, n_stride;
};

// A weight (n, taps, k) as the right-hand side of a forward product (columns n) or of one with the
// gradient (columns k).
enum class PackKind : uint8_t { Forward, Backward };
struct WeightSizes {
  int64_t n, taps, k;
};
PackSource pack_source(const Weight& w, PackKind kind, const WeightSizes& sizes);

class Packing {
 public:
  Packing(ThreadPool& threads, const Simd& simd) : threads_(threads), simd_(simd) {}

  // Without data.
  Packed layout(int64_t taps, int64_t k, int64_t n, DType dtype) const;
  void pack_panel(std::byte* out,
                  const Packed& packed,
                  int64_t panel,
                  const PackSource& source) const;
  // The weight's packed form: the kept one, or one that lasts until the next call. A weight under
  // training is read once each way in a step, so keeping its forms would cost memory and save
  // nothing.
  Packed packed_weight(const Weight& w, PackKind kind, const WeightSizes& sizes, DType compute);

  // Frozen weights, packed for forward products: Kernels::keep_weight. `kept` is null for a weight
  // that has values.
  bool keep(const Weight& w, DType compute);
  void forget(uint64_t id);
  const std::byte* kept(const Weight& w, PackKind kind) const;

  // Memory for what a whole call has packed or transformed, until the next call asks for it.
  enum class Room : uint8_t { Weight, Pairs, Inputs };
  std::byte* room(Room which, int64_t bytes) { return grow(rooms_[size_t(which)], bytes); }

  // For KernelCounters; by the calling thread only.
  void count(int64_t bytes) { ++packs_, packed_bytes_ += uint64_t(bytes); }
  uint64_t packs() const { return packs_; }
  uint64_t packed_bytes() const { return packed_bytes_; }
  uint64_t system_allocations() const { return pool_.stats().system_allocations; }

 private:
  void pack(std::byte* out, const Packed& packed, const PackSource& source);
  std::byte* grow(Tensor& buffer, int64_t bytes);

  ThreadPool& threads_;
  const Simd& simd_;
  BufferPool pool_;
  std::unordered_map<uint64_t, Tensor> kept_;  // by id
  std::array<Tensor, 3> rooms_;
  uint64_t packs_ = 0, packed_bytes_ = 0;
};

}  // namespace spindle::cpu
