// The cases of what layers are made of: products, norms, attention.
#pragma once
#include "kernel_outputs.h"
#include "op_cases.h"

namespace spindle {

// A list of cases of one activation type, and what their operands are made by.
class CaseList {
 public:
  CaseList(Allocator& allocator, DType dtype, bool accumulate)
      : allocator_(allocator),
        dtype_(dtype),
        accumulate_(accumulate),
        reference_(make_reference_kernels()) {}
  const std::vector<KernelCase>& list() const { return list_; }

 protected:
  Tensor values(const Shape& shape, double scale = 1) {
    return uniform_tensor(allocator_, shape, dtype_, ++seed_, scale);
  }
  // Biases, norms' parameters, statistics.
  Tensor floats(const Shape& shape, double scale = 1, double shift = 0) {
    return uniform_tensor(allocator_, shape, DType::F32, ++seed_, scale, shift);
  }
  // The statistics of a single value amplify what rounding leaves of x - mean.
  static double norm_tolerance(int64_t values, double eps) {
    return values > 1 ? 1e-5 : 1e-5 / std::sqrt(eps);
  }
  Weight weight(const Shape& shape) { return {values(shape, 0.3)}; }
  void add(std::string name,
           std::function<void(Backend&, Outputs&)> run,
           double float32_tolerance = 1e-5) {
    list_.push_back({std::move(name), std::move(run), float32_tolerance});
  }

  Allocator& allocator_;
  DType dtype_;
  bool accumulate_;
  std::unique_ptr<Backend> reference_;

 private:
  uint64_t seed_ = 0;
  std::vector<KernelCase> list_;
};

class LayerCases : public CaseList {
 public:
  using CaseList::CaseList;

 protected:
  void convolutions() {
    for (const cases::Conv2dCase& c : cases::kConv2d) {
      Tensor x = values(c.x()), dy = values(c.y());
      Weight w = weight(c.w());
      Epilogue e{.bias = c.bias ? floats({c.out}) : Tensor(),
                 .per_image = c.per_image ? values({c.batch, c.out}) : Tensor(),
                 .residual = c.residual ? values(c.y()) : Tensor(),
                 .activation = c.activation};
      add(c.name(), [=, dtype = dtype_, accumulate = accumulate_](Backend& k, Outputs& out) {
        k.run(Conv2dForward{
            .y = out.tensor("y", c.y(), dtype), .x = x, .w = w, .epilogue = e, .args = c.args});
        k.run(Conv2dForward{.y = out.tensor("y again", c.y(), dtype),
                            .x = x,
                            .w = w,
                            .epilogue = e,
                            .args = c.args});
        k.run(Conv2dBackwardInput{
            .dx = out.slot("dx", c.x(), dtype, accumulate), .dy = dy, .w = w, .args = c.args});
        k.run(Conv2dBackwardWeight{.dw = out.slot("dw", c.w(), DType::F32, accumulate),
                                   .db = out.slot("db", {c.out}, DType::F32, accumulate),
                                   .dy = dy,
                                   .x = x,
                                   .args = c.args});
        k.run(Conv2dBackwardWeight{.dw = out.slot("dw alone", c.w(), DType::F32, accumulate),
                                   .dy = dy,
                                   .x = x,
                                   .args = c.args});
        k.run(Conv2dBackwardWeight{.db = out.slot("db alone", {c.out}, DType::F32, accumulate),
                                   .dy = dy,
                                   .x = x,
                                   .args = c.args});
      });
    }
  }

  void linears() {
    for (const cases::LinearCase& c : cases::kLinear) {
      Tensor x = values({c.m(), c.k}), dy = values({c.m(), c.n});
      Weight w = weight({c.n, c.k});
      Epilogue e{.bias = c.bias ? floats({c.n}) : Tensor(),
                 .per_image = c.per_image ? values({c.batch, c.n}) : Tensor(),
                 .residual = c.residual ? values({c.m(), c.n}) : Tensor(),
                 .activation = c.activation};
      add(c.name(), [=, dtype = dtype_, accumulate = accumulate_](Backend& k, Outputs& out) {
        k.run(
            LinearForward{.y = out.tensor("y", dy.shape(), dtype), .x = x, .w = w, .epilogue = e});
        k.run(LinearForward{
            .y = out.tensor("y again", dy.shape(), dtype), .x = x, .w = w, .epilogue = e});
        k.run(LinearBackwardInput{
            .dx = out.slot("dx", x.shape(), dtype, accumulate), .dy = dy, .w = w});
        k.run(LinearBackwardWeight{.dw = out.slot("dw", w.value.shape(), DType::F32, accumulate),
                                   .db = out.slot("db", {c.n}, DType::F32, accumulate),
                                   .dy = dy,
                                   .x = x});
        k.run(LinearBackwardWeight{
            .dw = out.slot("dw alone", w.value.shape(), DType::F32, accumulate), .dy = dy, .x = x});
        k.run(LinearBackwardWeight{
            .db = out.slot("db alone", {c.n}, DType::F32, accumulate), .dy = dy, .x = x});
      });
    }
  }

  void gated_linears() {
    for (const cases::LinearGegluCase& c : cases::kLinearGeglu) {
      Tensor x = values({c.rows, c.k}), bias = c.bias ? floats({2 * c.n}) : Tensor();
      Weight w = weight({2 * c.n, c.k});
      add(c.name(), [=, dtype = dtype_](Backend& k, Outputs& out) {
        k.run(LinearGegluForward{
            .y = out.tensor("y", {c.rows, c.n}, dtype), .x = x, .w = w, .bias = bias});
      });
    }
  }

  void norms() {
    for (const cases::GroupNormCase& c : cases::kGroupNorm) {
      Shape parameters{c.x[-1]}, statistics{c.x[0], c.args.groups};
      Tensor x = values(c.x), dy = values(c.x), gamma = floats(parameters, 0.5, 1),
             beta = floats(parameters), y = values(c.x), mean = floats(statistics),
             rstd = floats(statistics);
      reference_->run(GroupNormForward{.y = y,
                                       .mean = mean,
                                       .rstd = rstd,
                                       .x = x,
                                       .gamma = gamma,
                                       .beta = beta,
                                       .args = c.args});
      add(
          c.name(),
          [=, dtype = dtype_, accumulate = accumulate_](Backend& k, Outputs& out) {
            k.run(GroupNormForward{.y = out.tensor("y", c.x, dtype),
                                   .mean = out.tensor("mean", statistics, DType::F32),
                                   .rstd = out.tensor("rstd", statistics, DType::F32),
                                   .x = x,
                                   .gamma = gamma,
                                   .beta = beta,
                                   .args = c.args});
            auto backward = [&](bool to_x, bool to_parameters, const std::string& which) {
              GradSlot dx = to_x ? out.slot("dx" + which, c.x, dtype, accumulate) : GradSlot();
              GradSlot dgamma = to_parameters
                                    ? out.slot("dgamma" + which, parameters, DType::F32, accumulate)
                                    : GradSlot();
              GradSlot dbeta = to_parameters
                                   ? out.slot("dbeta" + which, parameters, DType::F32, accumulate)
                                   : GradSlot();
              k.run(GroupNormBackward{.dx = dx,
                                      .dgamma = dgamma,
                                      .dbeta = dbeta,
                                      .dy = dy,
                                      .x = x,
                                      .mean = mean,
                                      .rstd = rstd,
                                      .gamma = gamma,
                                      .beta = beta,
                                      .args = c.args});
            };
            backward(true, true, "");
            backward(true, false, " alone");
            backward(false, true, " alone");
            backward(false, false, "");
          },
          norm_tolerance(c.x.numel() / statistics.numel(), c.args.eps));
    }
    for (const cases::LayerNormCase& c : cases::kLayerNorm) {
      Shape parameters{c.x[-1]}, statistics{c.x.numel() / c.x[-1]};
      Tensor x = values(c.x), dy = values(c.x), gamma = floats(parameters, 0.5, 1),
             beta = floats(parameters), y = values(c.x), mean = floats(statistics),
             rstd = floats(statistics);
      reference_->run(LayerNormForward{
          .y = y, .mean = mean, .rstd = rstd, .x = x, .gamma = gamma, .beta = beta, .eps = 1e-5});
      add(
          c.name(),
          [=, dtype = dtype_, accumulate = accumulate_](Backend& k, Outputs& out) {
            k.run(LayerNormForward{.y = out.tensor("y", c.x, dtype),
                                   .mean = out.tensor("mean", statistics, DType::F32),
                                   .rstd = out.tensor("rstd", statistics, DType::F32),
                                   .x = x,
                                   .gamma = gamma,
                                   .beta = beta,
                                   .eps = 1e-5});
            auto backward = [&](bool to_x, bool to_parameters, const std::string& which) {
              GradSlot dx = to_x ? out.slot("dx" + which, c.x, dtype, accumulate) : GradSlot();
              GradSlot dgamma = to_parameters
                                    ? out.slot("dgamma" + which, parameters, DType::F32, accumulate)
                                    : GradSlot();
              GradSlot dbeta = to_parameters
                                   ? out.slot("dbeta" + which, parameters, DType::F32, accumulate)
                                   : GradSlot();
              k.run(LayerNormBackward{.dx = dx,
                                      .dgamma = dgamma,
                                      .dbeta = dbeta,
                                      .dy = dy,
                                      .x = x,
                                      .mean = mean,
                                      .rstd = rstd,
                                      .gamma = gamma});
            };
            backward(true, true, "");
            backward(true, false, " alone");
            backward(false, true, " alone");
            backward(false, false, "");
          },
          norm_tolerance(c.x[-1], 1e-5));
    }
  }

  void attentions() {
    for (const cases::AttentionCase& c : cases::kAttention) {
      Shape statistics{c.batch, c.heads, c.queries};
      Tensor q = values(c.q()), k = values(c.k()), v = values(c.k()), d_o = values(c.q()),
             o = values(c.q()), lse = floats(statistics);
      reference_->run(
          AttentionForward{.o = o, .lse = lse, .q = q, .k = k, .v = v, .args = c.args()});
      add(c.name(), [=, dtype = dtype_, accumulate = accumulate_](Backend& kernels, Outputs& out) {
        kernels.run(AttentionForward{.o = out.tensor("o", c.q(), dtype),
                                     .lse = out.tensor("lse", statistics, DType::F32),
                                     .q = q,
                                     .k = k,
                                     .v = v,
                                     .args = c.args()});
        auto backward = [&](bool to_q, bool to_k, bool to_v, const std::string& which) {
          GradSlot dq = to_q ? out.slot("dq" + which, c.q(), dtype, accumulate) : GradSlot();
          GradSlot dk = to_k ? out.slot("dk" + which, c.k(), dtype, accumulate) : GradSlot();
          GradSlot dv = to_v ? out.slot("dv" + which, c.k(), dtype, accumulate) : GradSlot();
          kernels.run(AttentionBackward{.dq = dq,
                                        .dk = dk,
                                        .dv = dv,
                                        .d_o = d_o,
                                        .o = o,
                                        .lse = lse,
                                        .q = q,
                                        .k = k,
                                        .v = v,
                                        .args = c.args()});
        };
        backward(true, true, true, "");
        backward(true, false, false, " alone");
        backward(false, true, true, " without dq");
        backward(false, false, false, "");
      });
    }
  }
};

}  // namespace spindle
