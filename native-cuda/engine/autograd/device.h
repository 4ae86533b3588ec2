// What computing needs: kernels, threads and memory, owned together.
#pragma once
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "kernels/backend.h"

namespace spindle {

struct DeviceOptions {
  std::string backend = "cpu";    // "cpu", "cuda", "cuda:1" (its second device), "auto" (cuda where
                                  // it can be used, else cpu) or "reference"
  int threads = 0;                // 0: all available
  std::string isa = "auto";       // of cpu
  std::string cuda_library = {};  // file of the CUDA backend; empty: beside the engine
  std::string plans = {};  // folder where cuda keeps what it learnt about shapes; empty: none
  bool tf32 = false;       // of cuda, for float32
};

class Device {
 public:
  explicit Device(const DeviceOptions& options);
  DeviceMemory& memory() { return *kernels_; }
  Kernels& kernels() { return *kernels_; }
  StepKernels& step_kernels() { return *kernels_; }
  // Puts other kernels in place (a decorator around the old ones) and returns the old ones.
  std::unique_ptr<Backend> exchange_kernels(std::unique_ptr<Backend> kernels) {
    return std::exchange(kernels_, std::move(kernels));
  }
  // Where new tensors come from: the device's own pool, or a PoolScope's.
  BufferPool& pool() { return *active_pool_; }
  ThreadPool& threads() { return threads_; }
  const std::string& isa() const { return isa_; }
  // What computes: "cpu", "cuda" or "reference", and its name, e.g. "avx512_bf16" or "NVIDIA H200".
  const std::string& backend() const { return backend_; }
  // Tensors' values can be read and written in place.
  bool host_visible() const { return host_visible_; }
  Tensor empty(const Shape& shape, DType dtype) { return {*active_pool_, shape, dtype}; }
  Tensor zeros(const Shape& shape, DType dtype);
  // Between the host's values and a tensor's; as many as the tensor has.
  template <class T>
  void upload(const Tensor& to, const T* values) {
    ensure(sizeof(T) == dtype_size(to.dtype()), "[device] values of ", sizeof(T), " bytes for ",
           dtype_name(to.dtype()));
    kernels_->upload(to, values);
  }
  template <class T>
  std::vector<T> download(const Tensor& from) {
    ensure(sizeof(T) == dtype_size(from.dtype()), "[device] values of ", sizeof(T), " bytes from ",
           dtype_name(from.dtype()));
    std::vector<T> values(size_t(from.numel()));
    kernels_->download(values.data(), from);
    return values;
  }
  // dtype of statistics beside activations of `dtype`
  static DType stat_dtype(DType dtype) { return dtype == DType::F64 ? DType::F64 : DType::F32; }

 private:
  friend class PoolScope;
  ThreadPool threads_;
  std::unique_ptr<BufferPool> pool_;  // outlives the kernels, which may hold tensors of it
  BufferPool* active_pool_ = nullptr;
  std::string isa_, backend_;
  std::unique_ptr<Backend> kernels_;
  bool host_visible_ = true;
};

// While it lives, new tensors come from another pool of the same device's memory.
class PoolScope {
 public:
  PoolScope(Device& device, BufferPool& pool)
      : device_(device), before_(std::exchange(device.active_pool_, &pool)) {}
  ~PoolScope() { device_.active_pool_ = before_; }
  PoolScope(const PoolScope&) = delete;

 private:
  Device& device_;
  BufferPool* before_;
};

}  // namespace spindle
