// Every kernel on every case of the tables, as functions of a backend: the same call on two
// backends, or twice on one, can then be compared output by output.
#pragma once
#include "layer_cases.h"

namespace spindle {

// The cases of one activation type; gradients are stored, or added to what is there.
class KernelCases : public LayerCases {
 public:
  KernelCases(Allocator& allocator, DType dtype, bool accumulate)
      : LayerCases(allocator, dtype, accumulate) {
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

 private:
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
};

// f(dtype, accumulate, "F32, adding, ")
template <class F>
void for_each_type(F&& f) {
  for (DType dtype : {DType::F32, DType::BF16})
    for (bool accumulate : {false, true})
      f(dtype, accumulate, cat(dtype_name(dtype), accumulate ? ", adding, " : ", "));
}

}  // namespace spindle
