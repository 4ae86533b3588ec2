// What computing needs: kernels, threads and memory, owned together.
#pragma once
#include <memory>
#include <string>
#include <utility>

#include "kernels/kernels.h"

namespace spindle {

struct DeviceOptions {
  std::string backend = "cpu";  // "cpu" or "reference"
  int threads = 0;              // 0: all available
  std::string isa = "auto";
};

class Device {
 public:
  explicit Device(const DeviceOptions& options);
  Kernels& kernels() { return *kernels_; }
  // Puts other kernels in place (a decorator around the old ones) and returns the old ones.
  std::unique_ptr<Kernels> exchange_kernels(std::unique_ptr<Kernels> kernels) { return std::exchange(kernels_, std::move(kernels)); }
  BufferPool& pool() { return pool_; }
  ThreadPool& threads() { return threads_; }
  const std::string& isa() const { return isa_; }
  Tensor empty(const Shape& shape, DType dtype) { return {pool_, shape, dtype}; }
  Tensor zeros(const Shape& shape, DType dtype);
  // dtype of statistics beside activations of `dtype`
  static DType stat_dtype(DType dtype) { return dtype == DType::F64 ? DType::F64 : DType::F32; }

 private:
  ThreadPool threads_;
  BufferPool pool_;
  std::string isa_;
  std::unique_ptr<Kernels> kernels_;
};

}  // namespace spindle
