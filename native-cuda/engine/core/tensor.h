// Tensor: reference-counted storage, shape, dtype; always dense, row-major. Images are (B, H, W,
// C), tokens (B, T, C): reshaping between the two is free and shares the storage.
#pragma once
#include <array>
#include <atomic>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <ostream>
#include <vector>

#include "core/dtype.h"
#include "core/error.h"

namespace spindle {

class Shape {
 public:
  Shape() = default;
  Shape(std::initializer_list<int64_t> dims) : Shape(std::vector<int64_t>(dims)) {}
  explicit Shape(const std::vector<int64_t>& dims);

  int rank() const { return rank_; }
  // Negative indices count from the end.
  int64_t operator[](int i) const { return dims_[size_t(i < 0 ? rank_ + i : i)]; }
  int64_t numel() const;
  bool operator==(const Shape& other) const;
  std::vector<int64_t> dims() const { return {dims_.begin(), dims_.begin() + rank_}; }

 private:
  std::array<int64_t, 6> dims_{};
  int rank_ = 0;
};
std::ostream& operator<<(std::ostream& out, const Shape& shape);

// Hands out 64-byte aligned blocks and takes them back. Implementations: BufferPool (core/pool.h).
class Allocator {
 public:
  virtual ~Allocator() = default;
  virtual void* allocate(size_t bytes) = 0;
  virtual void release(void* data, size_t bytes) noexcept = 0;
};

class Storage {
 public:
  Storage(Allocator& allocator, size_t bytes);
  ~Storage() { allocator_.release(data_, bytes_); }
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;
  std::byte* data() { return static_cast<std::byte*>(data_); }
  size_t bytes() const { return bytes_; }
  // Unique over the process: gradients are kept per storage, so a reshaped tensor shares its
  // gradient.
  uint64_t id() const { return id_; }
  bool needs_grad = false;

 private:
  Allocator& allocator_;
  void* data_;
  size_t bytes_;
  uint64_t id_;
};

class Tensor {
 public:
  Tensor() = default;
  // Uninitialised.
  Tensor(Allocator& allocator, const Shape& shape, DType dtype);

  explicit operator bool() const { return storage_ != nullptr; }
  const Shape& shape() const { return shape_; }
  int rank() const { return shape_.rank(); }
  int64_t dim(int i) const { return shape_[i]; }
  int64_t numel() const { return shape_.numel(); }
  DType dtype() const { return dtype_; }
  size_t bytes() const { return size_t(numel()) * dtype_size(dtype_); }
  uint64_t id() const { return storage_->id(); }
  bool needs_grad() const { return storage_ && storage_->needs_grad; }
  void set_needs_grad(bool value) const { storage_->needs_grad = value; }
  // True when no other tensor shares the storage.
  bool unique() const { return storage_.use_count() == 1; }

  void* raw() const { return storage_->data() + offset_; }
  template <class T>
  T* data() const {
    return static_cast<T*>(raw());
  }
  float* f32() const { return data<float>(); }

  // Same storage, other shape with the same number of elements.
  Tensor reshape(const Shape& shape) const;
  // A dense piece of a flat arena, `first` in elements of `dtype`.
  Tensor slice(int64_t first, const Shape& shape) const;

 private:
  std::shared_ptr<Storage> storage_;
  size_t offset_ = 0;
  Shape shape_;
  DType dtype_ = DType::F32;
};

// What a tape node keeps of a tensor whose values it does not need.
struct TensorRef {
  TensorRef(const Tensor& t)
      : id(t.id()),
        shape(t.shape()),
        dtype(t.dtype()),
        needs_grad(t.needs_grad()) {}  // NOLINT: implicit on purpose
  uint64_t id;
  Shape shape;
  DType dtype;
  bool needs_grad;
};

}  // namespace spindle
