// The oracle: every kernel as plain loops in double. One file per family beside this one.
#pragma once
#include "kernels/host_kernels.h"

namespace spindle::reference {

class ReferenceKernels final : public HostKernels {
 public:
  const char* name() const override { return "reference"; }

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
  void nchw_to_nhwc(Tensor& y, const Tensor& x) override;
  void nhwc_to_nchw(Tensor& y, const Tensor& x) override;
  void cast(Tensor& y, const Tensor& x) override;
  void fill(Tensor& y, double value) override;

  void l2_normalize(Tensor& y, const Tensor& x) override;

  void mse_per_image(Tensor& errors, const Tensor& prediction, const Tensor& target) override;
  void mse_backward(Tensor& dprediction,
                    const Tensor& prediction,
                    const Tensor& target,
                    const Tensor& weights) override;

  double sum_of_squares(const Tensor& x) override;
  void adamw(Tensor& w, Tensor& m, Tensor& v, const Tensor& grad, const AdamWArgs& args) override;
  void lerp(Tensor& y, const Tensor& x, double weight) override;
};

}  // namespace spindle::reference
