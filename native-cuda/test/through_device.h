// A backend whose tensors lie in a device's memory, for tests whose tensors lie in the host's:
// every call brings its operands over and its outputs back. Outputs are brought over too, so that
// elements that a kernel leaves out, or adds to, are what the test put there.
#pragma once
#include <list>

#include "autograd/device.h"
#include "kernels/kernels.h"

namespace spindle {

class ThroughDevice : public Kernels {
 public:
  explicit ThroughDevice(Device& device) : device_(device), k_(device.kernels()) {}
  const char* name() const override { return k_.name(); }

  void upload(const Tensor& y, const void* host) override { std::memcpy(y.raw(), host, y.bytes()); }
  void download(void* host, const Tensor& x) override { std::memcpy(host, x.raw(), x.bytes()); }
  void copy(const Tensor& y, const Tensor& x) override {
    Over o(*this);
    k_.copy(o.out(y), o(x));
  }
  void clear(const Tensor& y) override {
    Over o(*this);
    k_.clear(o.out(y));
  }
  bool keep_weight(const Weight& w, DType compute) override {
    Tensor value = over(w.value);
    if (value.dtype() != compute) {
      Tensor rounded = device_.empty(value.shape(), compute);
      k_.cast(rounded, value);
      value = rounded;
    }
    return k_.keep_weight({value, w.id, w.kept}, compute);
  }
  void forget_weight(uint64_t id) override { k_.forget_weight(id); }

  void conv2d_forward(Tensor& y,
                      const Tensor& x,
                      const Weight& w,
                      const Epilogue& e,
                      const Conv2dArgs& args) override {
    Over o(*this);
    k_.conv2d_forward(o.out(y), o(x), o(w), o(e), args);
  }
  void conv2d_backward_input(const GradSlot& dx,
                             const Tensor& dy,
                             const Weight& w,
                             const Conv2dArgs& args) override {
    Over o(*this);
    k_.conv2d_backward_input(o.out(dx), o(dy), o(w), args);
  }
  void conv2d_backward_weight(const GradSlot& dw,
                              const GradSlot& db,
                              const Tensor& dy,
                              const Tensor& x,
                              const Conv2dArgs& args) override {
    Over o(*this);
    k_.conv2d_backward_weight(o.out(dw), o.out(db), o(dy), o(x), args);
  }
  void linear_forward(Tensor& y, const Tensor& x, const Weight& w, const Epilogue& e) override {
    Over o(*this);
    k_.linear_forward(o.out(y), o(x), o(w), o(e));
  }
  void linear_geglu_forward(Tensor& y,
                            const Tensor& x,
                            const Weight& w,
                            const Tensor& bias) override {
    Over o(*this);
    k_.linear_geglu_forward(o.out(y), o(x), o(w), o(bias));
  }
  void linear_backward_input(const GradSlot& dx, const Tensor& dy, const Weight& w) override {
    Over o(*this);
    k_.linear_backward_input(o.out(dx), o(dy), o(w));
  }
  void linear_backward_weight(const GradSlot& dw,
                              const GradSlot& db,
                              const Tensor& dy,
                              const Tensor& x) override {
    Over o(*this);
    k_.linear_backward_weight(o.out(dw), o.out(db), o(dy), o(x));
  }
  void group_norm_forward(Tensor& y,
                          Tensor& mean,
                          Tensor& rstd,
                          const Tensor& x,
                          const Tensor& gamma,
                          const Tensor& beta,
                          const GroupNormArgs& args) override {
    Over o(*this);
    k_.group_norm_forward(o.out(y), o.out(mean), o.out(rstd), o(x), o(gamma), o(beta), args);
  }
  void group_norm_backward(const GradSlot& dx,
                           const GradSlot& dgamma,
                           const GradSlot& dbeta,
                           const Tensor& dy,
                           const Tensor& x,
                           const Tensor& mean,
                           const Tensor& rstd,
                           const Tensor& gamma,
                           const Tensor& beta,
                           const GroupNormArgs& args) override {
    Over o(*this);
    k_.group_norm_backward(o.out(dx), o.out(dgamma), o.out(dbeta), o(dy), o(x), o(mean), o(rstd),
                           o(gamma), o(beta), args);
  }
  void layer_norm_forward(Tensor& y,
                          Tensor& mean,
                          Tensor& rstd,
                          const Tensor& x,
                          const Tensor& gamma,
                          const Tensor& beta,
                          double eps) override {
    Over o(*this);
    k_.layer_norm_forward(o.out(y), o.out(mean), o.out(rstd), o(x), o(gamma), o(beta), eps);
  }
  void layer_norm_backward(const GradSlot& dx,
                           const GradSlot& dgamma,
                           const GradSlot& dbeta,
                           const Tensor& dy,
                           const Tensor& x,
                           const Tensor& mean,
                           const Tensor& rstd,
                           const Tensor& gamma) override {
    Over o(*this);
    k_.layer_norm_backward(o.out(dx), o.out(dgamma), o.out(dbeta), o(dy), o(x), o(mean), o(rstd),
                           o(gamma));
  }
  void attention_forward(Tensor& out,
                         Tensor& lse,
                         const Tensor& q,
                         const Tensor& k,
                         const Tensor& v,
                         const AttentionArgs& args) override {
    Over o(*this);
    k_.attention_forward(o.out(out), o.out(lse), o(q), o(k), o(v), args);
  }
  void attention_backward(const GradSlot& dq,
                          const GradSlot& dk,
                          const GradSlot& dv,
                          const Tensor& d_o,
                          const Tensor& out,
                          const Tensor& lse,
                          const Tensor& q,
                          const Tensor& k,
                          const Tensor& v,
                          const AttentionArgs& args) override {
    Over o(*this);
    k_.attention_backward(o.out(dq), o.out(dk), o.out(dv), o(d_o), o(out), o(lse), o(q), o(k), o(v),
                          args);
  }
  void activation_forward(Tensor& y, const Tensor& x, Activation kind) override {
    Over o(*this);
    k_.activation_forward(o.out(y), o(x), kind);
  }
  void activation_backward(const GradSlot& dx,
                           const Tensor& dy,
                           const Tensor& x,
                           Activation kind) override {
    Over o(*this);
    k_.activation_backward(o.out(dx), o(dy), o(x), kind);
  }
  void geglu_forward(Tensor& y, const Tensor& x) override {
    Over o(*this);
    k_.geglu_forward(o.out(y), o(x));
  }
  void geglu_backward(const GradSlot& dx, const Tensor& dy, const Tensor& x) override {
    Over o(*this);
    k_.geglu_backward(o.out(dx), o(dy), o(x));
  }
  void add(Tensor& y, const Tensor& a, const Tensor& b) override {
    Over o(*this);
    k_.add(o.out(y), o(a), o(b));
  }
  void add_rows(Tensor& y, const Tensor& x, const Tensor& rows) override {
    Over o(*this);
    k_.add_rows(o.out(y), o(x), o(rows));
  }
  void sum_to_rows(const GradSlot& drows, const Tensor& dy) override {
    Over o(*this);
    k_.sum_to_rows(o.out(drows), o(dy));
  }
  void sum_per_image(const GradSlot& dt, const Tensor& dy) override {
    Over o(*this);
    k_.sum_per_image(o.out(dt), o(dy));
  }
  void scale(Tensor& y, const Tensor& x, double factor) override {
    Over o(*this);
    k_.scale(o.out(y), o(x), factor);
  }
  void accumulate(Tensor& y, const Tensor& x) override {
    Over o(*this);
    k_.accumulate(o.out(y), o(x));
  }
  void concat_channels(Tensor& y, const Tensor& a, const Tensor& b) override {
    Over o(*this);
    k_.concat_channels(o.out(y), o(a), o(b));
  }
  void split_channels(const GradSlot& da, const GradSlot& db, const Tensor& dy) override {
    Over o(*this);
    k_.split_channels(o.out(da), o.out(db), o(dy));
  }
  void upsample_nearest_forward(Tensor& y, const Tensor& x) override {
    Over o(*this);
    k_.upsample_nearest_forward(o.out(y), o(x));
  }
  void upsample_nearest_backward(const GradSlot& dx, const Tensor& dy) override {
    Over o(*this);
    k_.upsample_nearest_backward(o.out(dx), o(dy));
  }
  void embedding_forward(Tensor& y,
                         const Tensor& table,
                         const int32_t* ids,
                         int64_t count) override {
    Over o(*this);
    k_.embedding_forward(o.out(y), o(table), ids, count);
  }
  void gather_rows(Tensor& y, const Tensor& x, const int32_t* rows, int64_t count) override {
    Over o(*this);
    k_.gather_rows(o.out(y), o(x), rows, count);
  }
  void timestep_embedding(Tensor& y, const Tensor& timesteps, const TimestepArgs& args) override {
    Over o(*this);
    k_.timestep_embedding(o.out(y), o(timesteps), args);
  }
  void l2_normalize(Tensor& y, const Tensor& x) override {
    Over o(*this);
    k_.l2_normalize(o.out(y), o(x));
  }
  void nchw_to_nhwc(Tensor& y, const Tensor& x) override {
    Over o(*this);
    k_.nchw_to_nhwc(o.out(y), o(x));
  }
  void nhwc_to_nchw(Tensor& y, const Tensor& x) override {
    Over o(*this);
    k_.nhwc_to_nchw(o.out(y), o(x));
  }
  void cast(Tensor& y, const Tensor& x) override {
    Over o(*this);
    k_.cast(o.out(y), o(x));
  }
  void fill(Tensor& y, double value) override {
    Over o(*this);
    k_.fill(o.out(y), value);
  }
  void normal_noise(Tensor& noise, const Philox& philox, Draw draw, const Tensor& places) override {
    Over o(*this);
    k_.normal_noise(o.out(noise), philox, draw, o(places));
  }
  void diffuse(Tensor& noisy,
               Tensor& target,
               const Tensor& x,
               const Tensor& noise,
               const Tensor& coefficients) override {
    Over o(*this);
    k_.diffuse(o.out(noisy), o.out(target), o(x), o(noise), o(coefficients));
  }
  void sampler_input(Tensor& input, Tensor& timesteps, const SamplerTensors& s) override {
    Over o(*this);
    k_.sampler_input(o.out(input), o.out(timesteps), {o(s.memory), o(s.table), o(s.at)});
  }
  void sampler_step(const SamplerTensors& s, const Tensor& output, const Tensor& noise) override {
    Over o(*this);
    k_.sampler_step({o.out(s.memory), o(s.table), o.out(s.at)}, o(output), o(noise));
  }
  void mse_per_image(Tensor& errors, const Tensor& prediction, const Tensor& target) override {
    Over o(*this);
    k_.mse_per_image(o.out(errors), o(prediction), o(target));
  }
  void mse_backward(Tensor& d,
                    const Tensor& prediction,
                    const Tensor& target,
                    const Tensor& weights) override {
    Over o(*this);
    k_.mse_backward(o.out(d), o(prediction), o(target), o(weights));
  }
  bool pair_loss(Tensor& weights,
                 Tensor& loss,
                 const Tensor& errors,
                 const Tensor& opponent_errors,
                 const Tensor& settings,
                 PairLoss kind) override {
    Over o(*this);
    return k_.pair_loss(o.out(weights), o.out(loss), o(errors), o(opponent_errors), o(settings),
                        kind);
  }
  double sum_of_squares(const Tensor& x) override {
    Over o(*this);
    return k_.sum_of_squares(o(x));
  }
  void clip_gradient(Tensor& scalars, const Tensor& gradient, double max_norm) override {
    Over o(*this);
    k_.clip_gradient(o.out(scalars), o(gradient), max_norm);
  }
  void optimizer_step(const OptimizerArenas& a,
                      const Tensor& scalars,
                      const AdamWArgs& args) override {
    Over o(*this);
    k_.optimizer_step({o.out(a.w), o.out(a.m), o.out(a.v), o(a.grad), o.out(a.ema), o.out(a.low)},
                      o(scalars), args);
  }
  void adamw(Tensor& w, Tensor& m, Tensor& v, const Tensor& grad, const AdamWArgs& args) override {
    Over o(*this);
    k_.adamw(o.out(w), o.out(m), o.out(v), o(grad), args);
  }
  void lerp(Tensor& y, const Tensor& x, double weight) override {
    Over o(*this);
    k_.lerp(o.out(y), o(x), weight);
  }

 private:
  Tensor over(const Tensor& host) {
    Tensor t = device_.empty(host.shape(), host.dtype());
    k_.upload(t, host.raw());
    return t;
  }

  // One call's operands.
  class Over {
   public:
    explicit Over(ThroughDevice& to) : to_(to) {}
    ~Over() noexcept(false) {
      for (const Pair& p : pairs_)
        if (p.output) to_.k_.download(p.host.raw(), p.device);
    }
    Tensor& operator()(const Tensor& host) { return host ? of(host).device : empty_; }
    Tensor& out(const Tensor& host) {
      if (!host) return empty_;
      Pair& p = of(host);
      p.output = true;
      return p.device;
    }
    GradSlot out(const GradSlot& slot) {
      return {slot ? out(slot.tensor) : Tensor(), slot.accumulate};
    }
    Weight operator()(const Weight& w) { return {(*this)(w.value), w.id, w.kept}; }
    Epilogue operator()(const Epilogue& e) {
      return {(*this)(e.bias), (*this)(e.per_image), (*this)(e.residual), e.activation};
    }

   private:
    struct Pair {
      Tensor host, device;
      bool output = false;
    };
    // An operand given twice (in place) is one on the device too.
    Pair& of(const Tensor& host) {
      for (Pair& p : pairs_)
        if (p.host.raw() == host.raw() && p.host.bytes() == host.bytes()) return p;
      pairs_.push_back({host, to_.over(host), false});
      return pairs_.back();
    }
    ThroughDevice& to_;
    std::list<Pair> pairs_;
    Tensor empty_;
  };

  Device& device_;
  Kernels& k_;
};

}  // namespace spindle
