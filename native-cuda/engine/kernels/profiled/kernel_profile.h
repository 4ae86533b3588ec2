// What kernels cost, by kernel and by the shapes they were called with.
#pragma once
#include <array>
#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "core/tensor.h"

namespace spindle {

// Nominal work: operations of the products (a multiply and an add are two; zeros of a convolution's
// padding count), and the bytes of inputs and outputs, each counted once per call however often a
// cache serves it.
struct KernelCost {
  uint64_t calls = 0;
  double seconds = 0;
  double flop = 0;
  double bytes = 0;

  KernelCost& operator+=(const KernelCost& other);
  KernelCost operator-(const KernelCost& before) const;
};

// A call's kind: the kernel's name (a string literal), the type of its activations, and the shapes
// that decide its cost.
struct KernelKey {
  const char* op = "";
  DType dtype = DType::F32;
  std::array<Shape, 3> shapes = {};
  int64_t detail = 0;  // a convolution's stride, attention's heads

  bool operator==(const KernelKey& other) const;
  std::string describe() const;  // "32x16x16x64 128x3x3x64 /2"
};

struct KernelKeyHash {
  size_t operator()(const KernelKey& key) const;
};

class KernelProfile {
 public:
  void add(const KernelKey& key, double seconds, double flop, double bytes);
  void clear() { costs_.clear(); }

  struct Line {
    std::string op;
    std::string shapes;  // empty when summed over shapes
    DType dtype = DType::F32;
    KernelCost cost;
  };
  // Most time first.
  std::vector<Line> by_op() const;
  std::vector<Line> by_shape() const;
  KernelCost total() const;
  // Calls of kernels that only bring images into another order, whatever their shapes.
  uint64_t reorders() const;

 private:
  std::unordered_map<KernelKey, KernelCost, KernelKeyHash> costs_;
};

}  // namespace spindle
