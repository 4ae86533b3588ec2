// Kernels that hand every call to another backend and note its time, operations and bytes. A
// backend that calls itself (an activation after a product) is noted once, as the kernel that was
// asked for.
#pragma once
#include "kernels/kernels.h"
#include "kernels/profiled/kernel_profile.h"

namespace spindle {

class ProfiledKernels : public Kernels {
 public:
  explicit ProfiledKernels(std::unique_ptr<Kernels> inner) : inner_(std::move(inner)) {}
  const char* name() const override { return inner_->name(); }
  KernelCounters counters() const override { return inner_->counters(); }
  std::string algorithms() const override { return inner_->algorithms(); }
  std::string pin_algorithms(const std::string& text) override {
    return inner_->pin_algorithms(text);
  }
  std::shared_ptr<BlockSource> memory() override { return inner_->memory(); }
  bool host_visible() const override { return inner_->host_visible(); }
  void upload(const Tensor& y, const void* host) override { inner_->upload(y, host); }
  void download(void* host, const Tensor& x) override { inner_->download(host, x); }
  void copy(const Tensor& y, const Tensor& x) override { inner_->copy(y, x); }
  void clear(const Tensor& y) override { inner_->clear(y); }
  void finish() override { inner_->finish(); }
  std::unique_ptr<Collective> connect_memory(std::unique_ptr<Collective> hosts) override {
    return inner_->connect_memory(std::move(hosts));
  }
  std::unique_ptr<Mark> mark() override { return inner_->mark(); }
  // What a replay does cannot be told apart, so nothing is captured while profiling.
  std::unique_ptr<Captured> capture(const std::function<void()>&) override { return nullptr; }
  bool rounds_weights() const override { return inner_->rounds_weights(); }
  bool keep_weight(const Weight& w, DType compute) override {
    return inner_->keep_weight(w, compute);
  }
  void forget_weight(uint64_t id) override {
    if (inner_) inner_->forget_weight(id);
  }

  KernelProfile& profile() { return profile_; }
  // The backend, taken back; nothing may be called after it.
  std::unique_ptr<Kernels> release() { return std::move(inner_); }

  void conv2d_forward(Tensor& y,
                      const Tensor& x,
                      const Weight& w,
                      const Epilogue& epilogue,
                      const Conv2dArgs& args) override;
  void conv2d_backward_input(const GradSlot& dx,
                             const Tensor& dy,
                             const Weight& w,
                             const Conv2dArgs& args) override;
  void conv2d_backward_weight(const GradSlot& dw,
                              const GradSlot& db,
                              const Tensor& dy,
                              const Tensor& x,
                              const Conv2dArgs& args) override;
  void linear_forward(Tensor& y,
                      const Tensor& x,
                      const Weight& w,
                      const Epilogue& epilogue) override;
  void linear_geglu_forward(Tensor& y,
                            const Tensor& x,
                            const Weight& w,
                            const Tensor& bias) override;
  void linear_backward_input(const GradSlot& dx, const Tensor& dy, const Weight& w) override;
  void linear_backward_weight(const GradSlot& dw,
                              const GradSlot& db,
                              const Tensor& dy,
                              const Tensor& x) override;
  void group_norm_forward(Tensor& y,
                          Tensor& mean,
                          Tensor& rstd,
                          const Tensor& x,
                          const Tensor& gamma,
                          const Tensor& beta,
                          const GroupNormArgs& args) override;
  void group_norm_backward(const GradSlot& dx,
                           const GradSlot& dgamma,
                           const GradSlot& dbeta,
                           const Tensor& dy,
                           const Tensor& x,
                           const Tensor& mean,
                           const Tensor& rstd,
                           const Tensor& gamma,
                           const Tensor& beta,
                           const GroupNormArgs& args) override;
  void layer_norm_forward(Tensor& y,
                          Tensor& mean,
                          Tensor& rstd,
                          const Tensor& x,
                          const Tensor& gamma,
                          const Tensor& beta,
                          double eps) override;
  void layer_norm_backward(const GradSlot& dx,
                           const GradSlot& dgamma,
                           const GradSlot& dbeta,
                           const Tensor& dy,
                           const Tensor& x,
                           const Tensor& mean,
                           const Tensor& rstd,
                           const Tensor& gamma) override;
  void attention_forward(Tensor& o,
                         Tensor& lse,
                         const Tensor& q,
                         const Tensor& k,
                         const Tensor& v,
                         const AttentionArgs& args) override;
  void attention_backward(const GradSlot& dq,
                          const GradSlot& dk,
                          const GradSlot& dv,
                          const Tensor& d_o,
                          const Tensor& o,
                          const Tensor& lse,
                          const Tensor& q,
                          const Tensor& k,
                          const Tensor& v,
                          const AttentionArgs& args) override;
  void activation_forward(Tensor& y, const Tensor& x, Activation kind) override;
  void activation_backward(const GradSlot& dx,
                           const Tensor& dy,
                           const Tensor& x,
                           Activation kind) override;
  void geglu_forward(Tensor& y, const Tensor& x) override;
  void geglu_backward(const GradSlot& dx, const Tensor& dy, const Tensor& x) override;
  void add(Tensor& y, const Tensor& a, const Tensor& b) override;
  void add_rows(Tensor& y, const Tensor& x, const Tensor& rows) override;
  void sum_to_rows(const GradSlot& drows, const Tensor& dy) override;
  void sum_per_image(const GradSlot& dt, const Tensor& dy) override;
  void scale(Tensor& y, const Tensor& x, double factor) override;
  void accumulate(Tensor& y, const Tensor& x) override;
  void concat_channels(Tensor& y, const Tensor& a, const Tensor& b) override;
  void split_channels(const GradSlot& da, const GradSlot& db, const Tensor& dy) override;
  void upsample_nearest_forward(Tensor& y, const Tensor& x) override;
  void upsample_nearest_backward(const GradSlot& dx, const Tensor& dy) override;
  void embedding_forward(Tensor& y,
                         const Tensor& table,
                         const int32_t* ids,
                         int64_t count) override;
  void gather_rows(Tensor& y, const Tensor& x, const int32_t* rows, int64_t count) override;
  void timestep_embedding(Tensor& y, const Tensor& timesteps, const TimestepArgs& args) override;
  void l2_normalize(Tensor& y, const Tensor& x) override;
  void nchw_to_nhwc(Tensor& y, const Tensor& x) override;
  void nhwc_to_nchw(Tensor& y, const Tensor& x) override;
  void cast(Tensor& y, const Tensor& x) override;
  void fill(Tensor& y, double value) override;
  void mse_per_image(Tensor& errors, const Tensor& prediction, const Tensor& target) override;
  void mse_backward(Tensor& dprediction,
                    const Tensor& prediction,
                    const Tensor& target,
                    const Tensor& weights) override;
  void normal_noise(Tensor& noise, const Philox& philox, Draw draw, const Tensor& places) override {
    inner_->normal_noise(noise, philox, draw, places);
  }
  void diffuse(Tensor& noisy,
               Tensor& target,
               const Tensor& x,
               const Tensor& noise,
               const Tensor& coefficients) override {
    inner_->diffuse(noisy, target, x, noise, coefficients);
  }
  void sampler_input(Tensor& input, Tensor& timesteps, const SamplerTensors& sampler) override {
    inner_->sampler_input(input, timesteps, sampler);
  }
  void sampler_step(const SamplerTensors& sampler,
                    const Tensor& output,
                    const Tensor& noise) override {
    inner_->sampler_step(sampler, output, noise);
  }
  bool pair_loss(Tensor& weights,
                 Tensor& loss,
                 const Tensor& errors,
                 const Tensor& opponent_errors,
                 const Tensor& settings,
                 PairLoss kind) override {
    return inner_->pair_loss(weights, loss, errors, opponent_errors, settings, kind);
  }
  void clip_gradient(Tensor& scalars, const Tensor& gradient, double max_norm) override;
  void optimizer_step(const OptimizerArenas& arenas,
                      const Tensor& scalars,
                      const AdamWArgs& args) override;
  double sum_of_squares(const Tensor& x) override;
  void adamw(Tensor& w, Tensor& m, Tensor& v, const Tensor& grad, const AdamWArgs& args) override;
  void lerp(Tensor& y, const Tensor& x, double weight) override;

 private:
  template <class F>
  auto timed(const KernelKey& key, double flop, double bytes, F&& call);

  std::unique_ptr<Kernels> inner_;
  KernelProfile profile_;
};

}  // namespace spindle
