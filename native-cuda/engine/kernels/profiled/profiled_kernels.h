// Kernels that hand every call to another backend and note its time, operations and bytes
// (costs.h). A backend that calls itself (an activation after a product) is noted once, as the
// kernel that was asked for.
#pragma once
#include "kernels/backend.h"
#include "kernels/profiled/kernel_profile.h"

namespace spindle {

class ProfiledKernels : public Backend {
 public:
  explicit ProfiledKernels(std::unique_ptr<Backend> inner) : inner_(std::move(inner)) {}
  const char* name() const override { return inner_->name(); }
  KernelCounters counters() const override { return inner_->counters(); }
  std::string algorithms() const override { return inner_->algorithms(); }
  std::string pin_algorithms(const std::string& text) override {
    return inner_->pin_algorithms(text);
  }
  std::shared_ptr<BlockSource> blocks() override { return inner_->blocks(); }
  bool host_visible() const override { return inner_->host_visible(); }
  void upload(const Tensor& y, const void* host) override { inner_->upload(y, host); }
  void download(void* host, const Tensor& x) override { inner_->download(host, x); }
  void copy(const Tensor& y, const Tensor& x) override { inner_->copy(y, x); }
  void clear(const Tensor& y) override { inner_->clear(y); }
  void finish() override { inner_->finish(); }
  std::unique_ptr<Collective> connect_memory(std::unique_ptr<Collective> hosts) override {
    return inner_->connect_memory(std::move(hosts));
  }
  std::unique_ptr<Event> record_event() override { return inner_->record_event(); }
  // What a replay does cannot be told apart, so nothing is captured while profiling.
  std::unique_ptr<CapturedGraph> capture(const std::function<void()>&) override { return nullptr; }
  bool rounds_weights() const override { return inner_->rounds_weights(); }
  bool keep_weight(const Weight& w, DType compute) override {
    return inner_->keep_weight(w, compute);
  }
  void forget_weight(uint64_t id) override {
    if (inner_) inner_->forget_weight(id);
  }

  SPINDLE_KERNELS(SPINDLE_OVERRIDE_KERNEL)

  KernelProfile& profile() { return profile_; }
  // The backend, taken back; nothing may be called after it.
  std::unique_ptr<Backend> release() { return std::move(inner_); }

 private:
  template <class Op>
  void timed(const Op& op);

  std::unique_ptr<Backend> inner_;
  KernelProfile profile_;
};

}  // namespace spindle
