// Every kernel on every case of the tables, as functions of a backend: the same call on two
// backends, or twice on one, can then be compared output by output.
#pragma once
#include <functional>
#include <memory>

#include "check.h"
#include "op_cases.h"
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

// The cases of one activation type; gradients are stored, or added to what is there.
class KernelCases {
 public:
  KernelCases(Allocator& allocator, DType dtype, bool accumulate)
      : allocator_(allocator),
        dtype_(dtype),
        accumulate_(accumulate),
        reference_(make_reference_kernels()) {
    convolutions();
    linears();
    gated_linears();
    norms();
    attentions();
    elementwise();
    movement();
    tables();
    losses();
    if (dtype == DType::F32) flat();
  }
  const std::vector<KernelCase>& list() const { return list_; }

 private:
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

  void convolutions() {
    for (const cases::Conv2dCase& c : cases::kConv2d) {
      Tensor x = values(c.x()), dy = values(c.y());
      Weight w = weight(c.w());
      Epilogue e{c.bias ? floats({c.out}) : Tensor(),
                 c.per_image ? values({c.batch, c.out}) : Tensor(),
                 c.residual ? values(c.y()) : Tensor(), c.activation};
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
      Epilogue e{c.bias ? floats({c.n}) : Tensor(), c.per_image ? values({c.batch, c.n}) : Tensor(),
                 c.residual ? values({c.m(), c.n}) : Tensor(), c.activation};
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

  void elementwise() {
    for (const Shape& shape : cases::kElementwise) {
      Tensor a = values(shape, 4), b = values(shape), dy = values(shape);
      for (Activation kind : cases::kActivations)
        add(cat(cases::activation_name(kind), " ", shape),
            [=, dtype = dtype_, accumulate = accumulate_](Backend& k, Outputs& out) {
              k.run(ActivationForward{.y = out.tensor("y", shape, dtype), .x = a, .kind = kind});
              Tensor& in_place = out.copy_of("in place", a);
              k.run(ActivationForward{.y = in_place, .x = in_place, .kind = kind});
              k.run(ActivationBackward{
                  .dx = out.slot("dx", shape, dtype, accumulate), .dy = dy, .x = a, .kind = kind});
            });
      add(cat("add, scale and accumulate ", shape), [=, dtype = dtype_](Backend& k, Outputs& out) {
        k.run(Add{.y = out.tensor("sum", shape, dtype), .a = a, .b = b});
        Tensor& in_place = out.copy_of("sum in place", a);
        k.run(Add{.y = in_place, .a = in_place, .b = b});
        k.run(Scale{.y = out.tensor("scaled", shape, dtype), .x = a, .factor = 0.3});
        Tensor& scaled = out.copy_of("scaled in place", a);
        k.run(Scale{.y = scaled, .x = scaled, .factor = -7});
        k.run(Accumulate{.y = out.copy_of("accumulated", b), .x = a});
      });
    }
    for (const Shape& y : cases::kGeglu) {
      std::vector<int64_t> dims = y.dims();
      dims.back() *= 2;
      Tensor x = values(Shape(dims), 3), dy = values(y);
      add(cat("geglu ", y), [=, dtype = dtype_, accumulate = accumulate_](Backend& k,
                                                                          Outputs& out) {
        k.run(GegluForward{.y = out.tensor("y", y, dtype), .x = x});
        k.run(GegluBackward{.dx = out.slot("dx", x.shape(), dtype, accumulate), .dy = dy, .x = x});
      });
    }
    for (const cases::RowsCase& c : cases::kRows) {
      Tensor x = values(c.x), rows = values(c.rows);
      add(c.name(), [=, dtype = dtype_, accumulate = accumulate_](Backend& k, Outputs& out) {
        k.run(AddRows{.y = out.tensor("y", c.x, dtype), .x = x, .rows = rows});
        k.run(SumToRows{.drows = out.slot("drows", c.rows, dtype, accumulate), .dy = x});
        k.run(SumToRows{.drows = out.slot("drows in float32", c.rows, DType::F32, accumulate),
                        .dy = x});
      });
    }
    for (const Shape& shape : cases::kPerImage) {
      Tensor dy = values(shape);
      add(cat("sum_per_image ", shape),
          [=, dtype = dtype_, accumulate = accumulate_](Backend& k, Outputs& out) {
            k.run(SumPerImage{.dt = out.slot("dt", {shape[0], shape[-1]}, dtype, accumulate),
                              .dy = dy});
          });
    }
    for (const Shape& shape : cases::kL2Normalize) {
      Tensor x = values(shape);
      add(cat("l2_normalize ", shape), [=, dtype = dtype_](Backend& k, Outputs& out) {
        k.run(L2Normalize{.y = out.tensor("y", shape, dtype), .x = x});
      });
    }
  }

  void movement() {
    for (const cases::ConcatCase& c : cases::kConcat) {
      Tensor a = values(c.a), b = values(c.b), dy = values(c.y());
      add(c.name(), [=, dtype = dtype_, accumulate = accumulate_](Backend& k, Outputs& out) {
        k.run(ConcatChannels{.y = out.tensor("y", c.y(), dtype), .a = a, .b = b});
        k.run(SplitChannels{.da = out.slot("da", c.a, dtype, accumulate),
                            .db = out.slot("db", c.b, dtype, accumulate),
                            .dy = dy});
        k.run(SplitChannels{.da = out.slot("da alone", c.a, dtype, accumulate), .dy = dy});
        k.run(SplitChannels{.db = out.slot("db alone", c.b, dtype, accumulate), .dy = dy});
        k.run(SplitChannels{.dy = dy});
      });
    }
    for (const cases::UpsampleCase& c : cases::kUpsample) {
      Tensor x = values(c.x), dy = values(c.y());
      add(c.name(), [=, dtype = dtype_, accumulate = accumulate_](Backend& k, Outputs& out) {
        k.run(UpsampleNearestForward{.y = out.tensor("y", c.y(), dtype), .x = x});
        k.run(UpsampleNearestBackward{.dx = out.slot("dx", c.x, dtype, accumulate), .dy = dy});
      });
    }
    for (const Shape& nhwc : cases::kTranspose) {
      Shape nchw{nhwc[0], nhwc[3], nhwc[1], nhwc[2]};
      Tensor x = values(nhwc), z = values(nchw);
      add(cat("transpose and cast ", nhwc), [=](Backend& k, Outputs& out) {
        for (DType to : {DType::F32, DType::BF16}) {
          k.run(NhwcToNchw{.y = out.tensor(cat("nchw ", dtype_name(to)), nchw, to), .x = x});
          k.run(NchwToNhwc{.y = out.tensor(cat("nhwc ", dtype_name(to)), nhwc, to), .x = z});
          k.run(Cast{.y = out.tensor(cat("cast ", dtype_name(to)), nhwc, to), .x = x});
        }
      });
    }
  }

  void tables() {
    for (const cases::TableCase& c : cases::kTable) {
      Tensor table = floats({c.rows, c.width}), x = values({c.rows, c.width});
      Shape y{int64_t(c.ids.size()), c.width};
      add(c.name(), [=, dtype = dtype_](Backend& k, Outputs& out) {
        k.run(EmbeddingForward{
            .y = out.tensor("of float32", y, dtype), .table = table, .ids = c.ids});
        k.run(EmbeddingForward{
            .y = out.tensor("of its own type", y, dtype), .table = x, .ids = c.ids});
        k.run(GatherRows{.y = out.tensor("gathered", y, dtype), .x = x, .rows = c.ids});
      });
    }
    Tensor timesteps(allocator_, {5}, DType::F32);
    reference::store(timesteps, {0, 1, 37.5, 500, 999});
    for (const cases::TimestepCase& c : cases::kTimestep) {
      // frequencies are float32 in the reference library and in backends: an angle of 999 has half
      // of float32's digits left
      add(
          c.name(),
          [=, dtype = dtype_](Backend& k, Outputs& out) {
            k.run(TimestepEmbedding{
                .y = out.tensor("y", {5, c.width}, dtype), .timesteps = timesteps, .args = c.args});
          },
          1e-4);
    }
  }

  void losses() {
    for (const Shape& shape : cases::kLoss) {
      Tensor prediction = values(shape), target = values(shape), float_target = floats(shape),
             weights = floats({shape[0]});
      add(cat("mse ", shape), [=, dtype = dtype_](Backend& k, Outputs& out) {
        k.run(MsePerImage{.errors = out.tensor("errors", {shape[0]}, DType::F64),
                          .prediction = prediction,
                          .target = target});
        k.run(MsePerImage{.errors = out.tensor("errors of float32", {shape[0]}, DType::F64),
                          .prediction = prediction,
                          .target = float_target});
        k.run(MseBackward{.dprediction = out.tensor("dprediction", shape, dtype),
                          .prediction = prediction,
                          .target = target,
                          .weights = weights});
        k.run(MseBackward{.dprediction = out.tensor("dprediction to float32", shape, dtype),
                          .prediction = prediction,
                          .target = float_target,
                          .weights = weights});
      });
    }
  }

  void flat() {
    for (int64_t n : cases::kFlat) {
      OptimizerArenas start{.w = floats({n}),
                            .m = floats({n}, 0.1),
                            .v = floats({n}, 0.01, 0.011),
                            .grad = floats({n}, 3),
                            .ema = floats({n}),
                            .bf16 = Tensor(allocator_, {n}, DType::BF16)};
      Tensor scalars(allocator_, {kStepScalars}, DType::F64);
      reference::store(scalars,
                       {0.1, 3, 1 - 0.9 * 0.9 * 0.9, 1 - 0.999 * 0.999 * 0.999, 0.125, 0, 0, 0});
      add(cat("flat passes over ", n), [=](Backend& k, Outputs& out) {
        for (double max_norm : {0.0, 0.25}) {
          Tensor& s = out.copy_of(cat("scalars, max_norm ", max_norm), scalars);
          k.run(ClipGradient{.scalars = s, .gradient = start.grad, .max_norm = max_norm});
          k.run(OptimizerStep{
              .arenas = {.w = out.copy_of("w", start.w),
                         .m = out.copy_of("m", start.m),
                         .v = out.copy_of("v", start.v),
                         .grad = start.grad,
                         .ema = out.copy_of("ema", start.ema),
                         .bf16 = out.tensor("bfloat16 shadow", {n}, DType::BF16)},
              .scalars = s,
              .args = {.beta1 = 0.9, .beta2 = 0.999, .epsilon = 1e-8, .weight_decay = 0.01}});
        }
      });
    }
  }

  Allocator& allocator_;
  DType dtype_;
  bool accumulate_;
  std::unique_ptr<Backend> reference_;
  uint64_t seed_ = 0;
  std::vector<KernelCase> list_;
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

// f(dtype, accumulate, "F32, adding, ")
template <class F>
void for_each_type(F&& f) {
  for (DType dtype : {DType::F32, DType::BF16})
    for (bool accumulate : {false, true})
      f(dtype, accumulate, cat(dtype_name(dtype), accumulate ? ", adding, " : ", "));
}

}  // namespace spindle
