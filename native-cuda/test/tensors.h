// Tensors of made-up values, the same on every run, and their comparison.
#pragma once
#include <cstdlib>
#include <cstring>

#include "autograd/device.h"
#include "kernels/reference/values.h"

namespace spindle {

// Blocks of exactly the size asked for, so that AddressSanitizer sees the first byte read or
// written past a tensor's end.
class ExactAllocator : public Allocator {
 public:
  void* allocate(size_t bytes) override {
    void* data = nullptr;
    if (posix_memalign(&data, 64, std::max<size_t>(bytes, 1)) != 0)
      throw Error(Code::ResourceExhausted, cat("out of memory: asked for ", bytes, " bytes"));
    return data;
  }
  void release(void* data, size_t) noexcept override { std::free(data); }
};

// Uniform in [-1, 1), from a counter: value i does not depend on how many there are.
inline double uniform(uint64_t seed, uint64_t i) {
  uint64_t z = (seed + 1) * 0x9e3779b97f4a7c15ull + i * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return double((z ^ (z >> 31)) >> 11) * 0x1p-52 - 1;
}

inline void fill_uniform(const Tensor& t, uint64_t seed, double scale = 1, double shift = 0) {
  reference::Values values(size_t(t.numel()));
  for (size_t i = 0; i < values.size(); ++i) values[i] = shift + scale * uniform(seed, i);
  reference::store(t, values);
}

inline Tensor uniform_tensor(Allocator& allocator,
                             const Shape& shape,
                             DType dtype,
                             uint64_t seed,
                             double scale = 1,
                             double shift = 0) {
  Tensor t(allocator, shape, dtype);
  fill_uniform(t, seed, scale, shift);
  return t;
}

struct Difference {
  double relative;  // |a - b| / |b|
  double largest;   // of single elements, in units of b's root mean square: one element gone wrong
                    // shows in large tensors too
};

// Infinite when either has a value that is not finite. Inputs of tests are about 1: a result that
// cancels to nothing is held to what rounding leaves of 0.01.
inline Difference difference(const Tensor& a, const Tensor& b) {
  reference::Values va = reference::load(a), vb = reference::load(b);
  double squares = 0, size = 0, largest = 0, n = double(vb.size());
  for (size_t i = 0; i < vb.size(); ++i) {
    squares += (va[i] - vb[i]) * (va[i] - vb[i]);
    size += vb[i] * vb[i];
    largest = std::max(largest, std::abs(va[i] - vb[i]));
  }
  if (!std::isfinite(squares) || !std::isfinite(size)) return {INFINITY, INFINITY};
  double rms = std::max(std::sqrt(size / n), 0.01);
  return {std::sqrt(squares / n) / rms, largest / rms};
}

inline bool same_bytes(const Tensor& a, const Tensor& b) {
  return a.dtype() == b.dtype() && a.numel() == b.numel() &&
         std::memcmp(a.raw(), b.raw(), a.bytes()) == 0;
}

// Image `index` of (B, ...), as a batch of one.
inline Tensor image_of(const Tensor& t, int64_t index) {
  std::vector<int64_t> dims = t.shape().dims();
  dims[0] = 1;
  Shape one(dims);
  return t.slice(index * one.numel(), one);
}

}  // namespace spindle
