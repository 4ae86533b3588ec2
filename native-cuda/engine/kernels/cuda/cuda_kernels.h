// The CUDA backend: one stream, in whose order everything happens. Activations are float32 or
// bfloat16 with float32 statistics, sums and gradients of parameters. Products, convolutions and
// attention go through ports (products.h, convolutions.h, fused_attention.h); the rest is in the
// .cu files beside this one.
//
// Rules of the house: a sum's order depends on shapes alone, there are no float atomics, and
// nothing waits for the device but download() and finish(). So steps repeat byte for byte and can
// be captured.
#pragma once
#include <string>
#include <unordered_map>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cuda/convolutions.h"
#include "kernels/cuda/fused_attention.h"
#include "kernels/cuda/plans/plan_cache.h"
#include "kernels/cuda/products.h"
#include "kernels/cuda/rank_link.h"
#include "kernels/cuda/runtime.h"
#include "kernels/cuda/staging.h"

namespace spindle::cuda {

// The libraries' side of the backend; made by libraries.cc on a device and by the emulator's.
struct Libraries {
  std::unique_ptr<Products> products;
  std::unique_ptr<Convolutions> convolutions;
  std::vector<std::unique_ptr<FusedAttention>> attention;  // the first that takes a shape is asked
};
Libraries make_libraries(const LibraryOptions& options);
// What plans depend on beside the device; 0: no such library. Throws Error(NotFound) when a library
// is not all there.
struct LibraryVersions {
  uint64_t cublaslt = 0, cudnn = 0;
};
LibraryVersions library_versions();

// A kernel call: the thread's device from then on is the backend's (the thread that computes may be
// another one than made it), and errors have its name and the shapes of its main operands.
class Call : public Operation {
 public:
  Call(int device, const char* name, const Tensor& a) : Call(device, name, a, Shape()) {}
  Call(int device, const char* name, const Tensor& a, const Tensor& b)
      : Call(device, name, a, b ? b.shape() : Shape()) {}
  Call(int device, const char* name, const Tensor& a, const Shape& b)
      : name_(name), a_(a.shape()), b_(b) {
    use_device(device);
  }
  std::string describe() const override {
    return b_.rank() > 0 ? cat(name_, " ", a_, ", ", b_) : cat(name_, " ", a_);
  }

 private:
  const char* name_;
  Shape a_, b_;
};

class CudaKernels : public Backend {
 public:
  explicit CudaKernels(const CudaOptions& options);
  ~CudaKernels() override;
  const char* name() const override { return name_.c_str(); }
  KernelCounters counters() const override;
  std::string algorithms() const override { return plans_->pins(); }
  std::string pin_algorithms(const std::string& text) override { return plans_->pin(text); }

  std::shared_ptr<BlockSource> blocks() override { return blocks_; }
  bool host_visible() const override { return false; }
  void upload(const Tensor& y, const void* host) override;
  void download(void* host, const Tensor& x) override;
  void copy(const Tensor& y, const Tensor& x) override;
  void clear(const Tensor& y) override;
  void finish() override;
  std::unique_ptr<spindle::Event> record_event() override;
  std::unique_ptr<CapturedGraph> capture(const std::function<void()>& work) override;
  std::unique_ptr<Collective> connect_memory(std::unique_ptr<Collective> hosts) override;
  bool keep_weight(const Weight& w, DType compute) override;
  void forget_weight(uint64_t id) override;

  SPINDLE_KERNELS(SPINDLE_OVERRIDE_KERNEL)

 private:
  // The weight's values, given or kept.
  const Tensor& values_of(const Weight& w) const;
  // `bias` in the activations' type: itself, or a rounded copy in scratch.
  Tensor as_type(const Tensor& bias, DType dtype);
  // y += bias and so on, in place (elementwise.cu)
  void add_epilogue(const Tensor& y, int64_t channels, const Epilogue& epilogue);
  // y (segments, columns) [+]= sums down the columns of x (segments, rows, columns)
  // (elementwise.cu)
  void sum_columns(const GradSlot& y, const Tensor& x, int64_t segments);
  // y = sum of the squares of x, in double (optimizer.cu)
  void sum_squares_into(double* y, const Tensor& x);
  void norm_parameters(const GradSlot& dgamma,
                       const GradSlot& dbeta,
                       const Tensor& partial,
                       int64_t c,
                       int64_t count);
  void take_rows(const Tensor& y, const Tensor& table, std::span<const int32_t> rows);
  FusedAttention& attention_for(const Tensor& q,
                                const Tensor& k,
                                const AttentionArgs& args,
                                bool gradients);
  void bind() const;

  int device_;
  std::string name_;
  std::shared_ptr<BlockSource> blocks_;
  Stream stream_ = nullptr;
  BufferPool
      scratch_;  // what lasts for one call; held once there are captures, which have its addresses
  Staging staging_;
  std::unique_ptr<PlanCache> plans_;
  Libraries libraries_;
  std::unordered_map<uint64_t, Tensor> kept_;  // frozen weights, by id
};

}  // namespace spindle::cuda
