// A kernel's call on a case of the tables, and what it wrote.
#pragma once
#include <functional>
#include <memory>

#include "check.h"
#include "kernels/backend.h"
#include "tensors.h"

namespace spindle {

// What a kernel wrote. Outputs start as NaN, so that an element left out shows.
class Outputs {
 public:
  explicit Outputs(Allocator& allocator) : allocator_(allocator) {}

  Tensor& tensor(const std::string& name, const Shape& shape, DType dtype) {
    Tensor t(allocator_, shape, dtype);
    reference::store(t, reference::Values(size_t(t.numel()), NAN));
    return keep(name, t);
  }
  // An output that the kernel changes in place.
  Tensor& copy_of(const std::string& name, const Tensor& start) {
    Tensor t(allocator_, start.shape(), start.dtype());
    std::memcpy(t.raw(), start.raw(), t.bytes());
    return keep(name, t);
  }
  GradSlot slot(const std::string& name, const Shape& shape, DType dtype, bool accumulate) {
    Tensor& t = tensor(name, shape, dtype);
    if (accumulate) fill_uniform(t, 400 + list_.size());
    return {t, accumulate};
  }
  struct Output {
    std::string name;
    Tensor tensor;
  };
  const std::vector<std::unique_ptr<Output>>& list() const { return list_; }

 private:
  Tensor& keep(const std::string& name, const Tensor& t) {
    list_.push_back(std::make_unique<Output>(Output{name, t}));
    return list_.back()->tensor;
  }
  Allocator& allocator_;
  std::vector<std::unique_ptr<Output>> list_;
};

struct KernelCase {
  std::string name;
  std::function<void(Backend&, Outputs&)> run;
  double float32_tolerance = 1e-5;
};

// Every output within the case's tolerance for float32, or the backend's for bfloat16.
inline void compare(const KernelCase& c,
                    const Outputs& got,
                    const Outputs& expected,
                    double bfloat16_tolerance) {
  for (size_t i = 0; i < expected.list().size(); ++i) {
    const Tensor &a = got.list()[i]->tensor, &b = expected.list()[i]->tensor;
    double tolerance = b.dtype() == DType::BF16 ? bfloat16_tolerance : c.float32_tolerance;
    Difference d = difference(a, b);
    CHECK_THAT(d.relative <= tolerance && d.largest <= 20 * tolerance, expected.list()[i]->name,
               ": relative error ", d.relative, ", largest ", d.largest);
  }
}

}  // namespace spindle
