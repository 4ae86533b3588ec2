#include "kernels/profiled/profiled_kernels.h"

#include <chrono>

namespace spindle {

namespace {

double size(const Tensor& t) { return t ? double(t.bytes()) : 0; }
// In the activations' type, as products read it.
double size(const Weight& w, DType compute) {
  return double(w.shape().numel()) * double(dtype_size(compute));
}
// Adding reads what is there.
double size(const GradSlot& slot) { return size(slot.tensor) * (slot.accumulate ? 2 : 1); }
double size(const Epilogue& e) { return size(e.bias) + size(e.per_image) + size(e.residual); }

template <class... Operands>
double bytes_of(const Operands&... operands) {
  return (size(operands) + ...);
}

double product_flop(const Shape& weight, double positions) {
  return 2 * double(weight.numel()) * positions;
}
double positions(const Tensor& t) { return double(t.numel() / t.dim(-1)); }

// One product of queries and keys over all heads; a causal one needs about half.
double attention_product(const Tensor& q, const Tensor& k, const AttentionArgs& args) {
  double pairs = args.causal ? double(k.dim(1) + 1) / 2 : double(k.dim(1));
  return 2 * double(q.numel()) * pairs;
}

KernelKey key_of(const char* op, const Tensor& x, const Shape& weight, int64_t detail = 0) {
  return {op, x.dtype(), {x.shape(), weight, Shape()}, detail};
}

KernelKey key_of(const char* op,
                 const Tensor& first,
                 const Tensor& second = {},
                 const Tensor& third = {},
                 int64_t detail = 0) {
  return {op,
          first ? first.dtype() : DType::F32,
          {first.shape(), second.shape(), third.shape()},
          detail};
}

const Tensor& either(const GradSlot& a, const GradSlot& b) { return a ? a.tensor : b.tensor; }

}  // namespace

template <class F>
auto ProfiledKernels::timed(const KernelKey& key, double flop, double bytes, F&& call) {
  struct Note {
    Kernels& kernels;
    KernelProfile& profile;
    const KernelKey& key;
    double flop, bytes;
    std::chrono::steady_clock::time_point start = std::chrono::steady_clock::now();
    ~Note() {
      // Otherwise the time is what asking for the work took; what goes wrong comes up again at the
      // next call.
      if (!kernels.host_visible()) try {
          kernels.finish();
        } catch (const Error&) {
        }
      profile.add(key,
                  std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(),
                  flop, bytes);
    }
  } note{*inner_, profile_, key, flop, bytes};
  return call();
}

// --- products: the shapes are the input's and the weight's; both backward kernels have the
// forward's key but for their name

void ProfiledKernels::conv2d_forward(Tensor& y,
                                     const Tensor& x,
                                     const Weight& w,
                                     const Epilogue& e,
                                     const Conv2dArgs& args) {
  timed(key_of("conv2d_forward", x, w.shape(), args.stride), product_flop(w.shape(), positions(y)),
        bytes_of(y, x, e) + size(w, x.dtype()), [&] { inner_->conv2d_forward(y, x, w, e, args); });
}

void ProfiledKernels::conv2d_backward_input(const GradSlot& dx,
                                            const Tensor& dy,
                                            const Weight& w,
                                            const Conv2dArgs& args) {
  timed(key_of("conv2d_backward_input", dx.tensor, w.shape(), args.stride),
        product_flop(w.shape(), positions(dy)), bytes_of(dx, dy) + size(w, dy.dtype()),
        [&] { inner_->conv2d_backward_input(dx, dy, w, args); });
}

void ProfiledKernels::conv2d_backward_weight(const GradSlot& dw,
                                             const GradSlot& db,
                                             const Tensor& dy,
                                             const Tensor& x,
                                             const Conv2dArgs& args) {
  timed(key_of("conv2d_backward_weight", x, dw.tensor, {}, args.stride),
        dw ? product_flop(dw.tensor.shape(), positions(dy)) : 0, bytes_of(dw, db, dy, x),
        [&] { inner_->conv2d_backward_weight(dw, db, dy, x, args); });
}

void ProfiledKernels::linear_forward(Tensor& y,
                                     const Tensor& x,
                                     const Weight& w,
                                     const Epilogue& e) {
  timed(key_of("linear_forward", x, w.shape()), product_flop(w.shape(), positions(x)),
        bytes_of(y, x, e) + size(w, x.dtype()), [&] { inner_->linear_forward(y, x, w, e); });
}

void ProfiledKernels::linear_geglu_forward(Tensor& y,
                                           const Tensor& x,
                                           const Weight& w,
                                           const Tensor& bias) {
  timed(key_of("linear_geglu_forward", x, w.shape()), product_flop(w.shape(), positions(x)),
        bytes_of(y, x, bias) + size(w, x.dtype()),
        [&] { inner_->linear_geglu_forward(y, x, w, bias); });
}

void ProfiledKernels::linear_backward_input(const GradSlot& dx, const Tensor& dy, const Weight& w) {
  timed(key_of("linear_backward_input", dx.tensor, w.shape()),
        product_flop(w.shape(), positions(dy)), bytes_of(dx, dy) + size(w, dy.dtype()),
        [&] { inner_->linear_backward_input(dx, dy, w); });
}

void ProfiledKernels::linear_backward_weight(const GradSlot& dw,
                                             const GradSlot& db,
                                             const Tensor& dy,
                                             const Tensor& x) {
  timed(key_of("linear_backward_weight", x, dw.tensor),
        dw ? product_flop(dw.tensor.shape(), positions(dy)) : 0, bytes_of(dw, db, dy, x),
        [&] { inner_->linear_backward_weight(dw, db, dy, x); });
}

// --- normalisation

void ProfiledKernels::group_norm_forward(Tensor& y,
                                         Tensor& mean,
                                         Tensor& rstd,
                                         const Tensor& x,
                                         const Tensor& gamma,
                                         const Tensor& beta,
                                         const GroupNormArgs& args) {
  timed(key_of("group_norm_forward", x), 0, bytes_of(y, mean, rstd, x, gamma, beta),
        [&] { inner_->group_norm_forward(y, mean, rstd, x, gamma, beta, args); });
}

void ProfiledKernels::group_norm_backward(const GradSlot& dx,
                                          const GradSlot& dgamma,
                                          const GradSlot& dbeta,
                                          const Tensor& dy,
                                          const Tensor& x,
                                          const Tensor& mean,
                                          const Tensor& rstd,
                                          const Tensor& gamma,
                                          const Tensor& beta,
                                          const GroupNormArgs& args) {
  timed(key_of("group_norm_backward", x), 0,
        bytes_of(dx, dgamma, dbeta, dy, x, mean, rstd, gamma, beta), [&] {
          inner_->group_norm_backward(dx, dgamma, dbeta, dy, x, mean, rstd, gamma, beta, args);
        });
}

void ProfiledKernels::layer_norm_forward(Tensor& y,
                                         Tensor& mean,
                                         Tensor& rstd,
                                         const Tensor& x,
                                         const Tensor& gamma,
                                         const Tensor& beta,
                                         double eps) {
  timed(key_of("layer_norm_forward", x), 0, bytes_of(y, mean, rstd, x, gamma, beta),
        [&] { inner_->layer_norm_forward(y, mean, rstd, x, gamma, beta, eps); });
}

void ProfiledKernels::layer_norm_backward(const GradSlot& dx,
                                          const GradSlot& dgamma,
                                          const GradSlot& dbeta,
                                          const Tensor& dy,
                                          const Tensor& x,
                                          const Tensor& mean,
                                          const Tensor& rstd,
                                          const Tensor& gamma) {
  timed(key_of("layer_norm_backward", x), 0, bytes_of(dx, dgamma, dbeta, dy, x, mean, rstd, gamma),
        [&] { inner_->layer_norm_backward(dx, dgamma, dbeta, dy, x, mean, rstd, gamma); });
}

// --- attention: forward has two products, backward five (the scores again, dp, and one per
// gradient)

void ProfiledKernels::attention_forward(Tensor& o,
                                        Tensor& lse,
                                        const Tensor& q,
                                        const Tensor& k,
                                        const Tensor& v,
                                        const AttentionArgs& args) {
  timed(key_of("attention_forward", q, k, {}, args.heads), 2 * attention_product(q, k, args),
        bytes_of(o, lse, q, k, v), [&] { inner_->attention_forward(o, lse, q, k, v, args); });
}

void ProfiledKernels::attention_backward(const GradSlot& dq,
                                         const GradSlot& dk,
                                         const GradSlot& dv,
                                         const Tensor& d_o,
                                         const Tensor& o,
                                         const Tensor& lse,
                                         const Tensor& q,
                                         const Tensor& k,
                                         const Tensor& v,
                                         const AttentionArgs& args) {
  int products =
      (dq || dk || dv ? 1 : 0) + (dq || dk ? 1 : 0) + (dq ? 1 : 0) + (dk ? 1 : 0) + (dv ? 1 : 0);
  timed(key_of("attention_backward", q, k, {}, args.heads),
        products * attention_product(q, k, args), bytes_of(dq, dk, dv, d_o, o, lse, q, k, v),
        [&] { inner_->attention_backward(dq, dk, dv, d_o, o, lse, q, k, v, args); });
}

// --- elementwise and data movement

void ProfiledKernels::activation_forward(Tensor& y, const Tensor& x, Activation kind) {
  timed(key_of("activation_forward", y), 0, bytes_of(y, x),
        [&] { inner_->activation_forward(y, x, kind); });
}

void ProfiledKernels::activation_backward(const GradSlot& dx,
                                          const Tensor& dy,
                                          const Tensor& x,
                                          Activation kind) {
  timed(key_of("activation_backward", x), 0, bytes_of(dx, dy, x),
        [&] { inner_->activation_backward(dx, dy, x, kind); });
}

void ProfiledKernels::geglu_forward(Tensor& y, const Tensor& x) {
  timed(key_of("geglu_forward", y), 0, bytes_of(y, x), [&] { inner_->geglu_forward(y, x); });
}

void ProfiledKernels::geglu_backward(const GradSlot& dx, const Tensor& dy, const Tensor& x) {
  timed(key_of("geglu_backward", dy), 0, bytes_of(dx, dy, x),
        [&] { inner_->geglu_backward(dx, dy, x); });
}

void ProfiledKernels::add(Tensor& y, const Tensor& a, const Tensor& b) {
  timed(key_of("add", y), 0, bytes_of(y, a, b), [&] { inner_->add(y, a, b); });
}

void ProfiledKernels::add_rows(Tensor& y, const Tensor& x, const Tensor& rows) {
  timed(key_of("add_rows", y, rows), 0, bytes_of(y, x, rows),
        [&] { inner_->add_rows(y, x, rows); });
}

void ProfiledKernels::sum_to_rows(const GradSlot& drows, const Tensor& dy) {
  timed(key_of("sum_to_rows", dy), 0, bytes_of(drows, dy), [&] { inner_->sum_to_rows(drows, dy); });
}

void ProfiledKernels::sum_per_image(const GradSlot& dt, const Tensor& dy) {
  timed(key_of("sum_per_image", dy), 0, bytes_of(dt, dy), [&] { inner_->sum_per_image(dt, dy); });
}

void ProfiledKernels::scale(Tensor& y, const Tensor& x, double factor) {
  timed(key_of("scale", y), 0, bytes_of(y, x), [&] { inner_->scale(y, x, factor); });
}

void ProfiledKernels::accumulate(Tensor& y, const Tensor& x) {
  timed(key_of("accumulate", y), 0, bytes_of(y, y, x),
        [&] { inner_->accumulate(y, x); });  // y is read and written
}

void ProfiledKernels::concat_channels(Tensor& y, const Tensor& a, const Tensor& b) {
  timed(key_of("concat_channels", a, b), 0, bytes_of(y, a, b),
        [&] { inner_->concat_channels(y, a, b); });
}

void ProfiledKernels::split_channels(const GradSlot& da, const GradSlot& db, const Tensor& dy) {
  timed(key_of("split_channels", dy), 0, bytes_of(da, db, either(da, db) ? dy : Tensor()),
        [&] { inner_->split_channels(da, db, dy); });
}

void ProfiledKernels::upsample_nearest_forward(Tensor& y, const Tensor& x) {
  timed(key_of("upsample_nearest_forward", x, y), 0, bytes_of(y, x),
        [&] { inner_->upsample_nearest_forward(y, x); });
}

void ProfiledKernels::upsample_nearest_backward(const GradSlot& dx, const Tensor& dy) {
  timed(key_of("upsample_nearest_backward", dx.tensor, dy), 0, bytes_of(dx, dy),
        [&] { inner_->upsample_nearest_backward(dx, dy); });
}

void ProfiledKernels::embedding_forward(Tensor& y,
                                        const Tensor& table,
                                        const int32_t* ids,
                                        int64_t count) {
  timed(key_of("embedding_forward", y), 0, bytes_of(y, y), [&] {
    inner_->embedding_forward(y, table, ids, count);
  });  // reads as many rows as it writes
}

void ProfiledKernels::gather_rows(Tensor& y, const Tensor& x, const int32_t* rows, int64_t count) {
  timed(key_of("gather_rows", y), 0, bytes_of(y, y),
        [&] { inner_->gather_rows(y, x, rows, count); });
}

void ProfiledKernels::timestep_embedding(Tensor& y,
                                         const Tensor& timesteps,
                                         const TimestepArgs& args) {
  timed(key_of("timestep_embedding", y), 0, bytes_of(y),
        [&] { inner_->timestep_embedding(y, timesteps, args); });
}

void ProfiledKernels::l2_normalize(Tensor& y, const Tensor& x) {
  timed(key_of("l2_normalize", y), 0, bytes_of(y, x), [&] { inner_->l2_normalize(y, x); });
}

void ProfiledKernels::nchw_to_nhwc(Tensor& y, const Tensor& x) {
  timed(key_of("nchw_to_nhwc", y), 0, bytes_of(y, x), [&] { inner_->nchw_to_nhwc(y, x); });
}

void ProfiledKernels::nhwc_to_nchw(Tensor& y, const Tensor& x) {
  timed(key_of("nhwc_to_nchw", y), 0, bytes_of(y, x), [&] { inner_->nhwc_to_nchw(y, x); });
}

void ProfiledKernels::cast(Tensor& y, const Tensor& x) {
  timed(key_of("cast", y), 0, bytes_of(y, x), [&] { inner_->cast(y, x); });
}

void ProfiledKernels::fill(Tensor& y, double value) {
  timed(key_of("fill", y), 0, bytes_of(y), [&] { inner_->fill(y, value); });
}

// --- losses and flat passes

void ProfiledKernels::mse_per_image(Tensor& errors,
                                    const Tensor& prediction,
                                    const Tensor& target) {
  timed(key_of("mse_per_image", prediction), 0, bytes_of(errors, prediction, target),
        [&] { inner_->mse_per_image(errors, prediction, target); });
}

void ProfiledKernels::mse_backward(Tensor& dprediction,
                                   const Tensor& prediction,
                                   const Tensor& target,
                                   const Tensor& weights) {
  timed(key_of("mse_backward", dprediction), 0, bytes_of(dprediction, prediction, target, weights),
        [&] { inner_->mse_backward(dprediction, prediction, target, weights); });
}

double ProfiledKernels::sum_of_squares(const Tensor& x) {
  return timed(key_of("sum_of_squares", x), 0, bytes_of(x),
               [&] { return inner_->sum_of_squares(x); });
}

void ProfiledKernels::clip_gradient(Tensor& scalars, const Tensor& gradient, double max_norm) {
  timed(key_of("sum_of_squares", gradient), 0, bytes_of(gradient),
        [&] { inner_->clip_gradient(scalars, gradient, max_norm); });
}

void ProfiledKernels::optimizer_step(const OptimizerArenas& a,
                                     const Tensor& scalars,
                                     const AdamWArgs& args) {
  timed(key_of("adamw", a.w), 0,
        bytes_of(a.w, a.w, a.m, a.m, a.v, a.v, a.grad, a.ema, a.ema, a.low),
        [&] { inner_->optimizer_step(a, scalars, args); });
}

void ProfiledKernels::adamw(Tensor& w,
                            Tensor& m,
                            Tensor& v,
                            const Tensor& grad,
                            const AdamWArgs& args) {
  timed(key_of("adamw", w), 0, bytes_of(w, w, m, m, v, v, grad),
        [&] { inner_->adamw(w, m, v, grad, args); });  // all but the gradient are read and written
}

void ProfiledKernels::lerp(Tensor& y, const Tensor& x, double weight) {
  timed(key_of("lerp", y), 0, bytes_of(y, y, x), [&] { inner_->lerp(y, x, weight); });
}

}  // namespace spindle
