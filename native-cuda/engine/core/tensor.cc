#include "core/tensor.h"

namespace spindle {

Shape::Shape(const std::vector<int64_t>& dims) {
  require(dims.size() <= dims_.size(), "[shape] expected at most ", dims_.size(),
          " dimensions, got ", dims.size());
  for (int64_t d : dims) {
    require(d >= 0, "[shape] a dimension is negative: ", d);
    dims_[size_t(rank_++)] = d;
  }
}

int64_t Shape::numel() const {
  int64_t n = 1;
  for (int i = 0; i < rank_; ++i) n *= dims_[size_t(i)];
  return n;
}

bool Shape::operator==(const Shape& other) const {
  if (rank_ != other.rank_) return false;
  for (int i = 0; i < rank_; ++i)
    if (dims_[size_t(i)] != other.dims_[size_t(i)]) return false;
  return true;
}

std::ostream& operator<<(std::ostream& out, const Shape& shape) {
  out << '(';
  for (int i = 0; i < shape.rank(); ++i) out << (i ? ", " : "") << shape[i];
  return out << ')';
}

namespace {
std::atomic<uint64_t> next_storage_id{1};
}

Storage::Storage(Allocator& allocator, size_t bytes)
    : allocator_(allocator),
      data_(allocator.allocate(bytes)),
      bytes_(bytes),
      id_(next_storage_id.fetch_add(1, std::memory_order_relaxed)) {}

Tensor::Tensor(Allocator& allocator, const Shape& shape, DType dtype)
    : storage_(std::make_shared<Storage>(allocator, size_t(shape.numel()) * dtype_size(dtype))),
      shape_(shape),
      dtype_(dtype) {}

Tensor Tensor::reshape(const Shape& shape) const {
  require(shape.numel() == numel(), "[reshape] ", shape_, " does not have as many elements as ",
          shape);
  Tensor t = *this;
  t.shape_ = shape;
  return t;
}

Tensor Tensor::slice(int64_t first, const Shape& shape) const {
  require(first >= 0 && first + shape.numel() <= numel(), "[slice] ", shape, " at ", first,
          " is outside of ", numel(), " elements");
  Tensor t = *this;
  t.offset_ += size_t(first) * dtype_size(dtype_);
  t.shape_ = shape;
  return t;
}

}  // namespace spindle
