// Convolutions by cuDNN's graph API. Its tensors are (N, C, H, W) by name and (N, H, W, C) by their
// strides.
#include <unordered_map>

#include "kernels/cuda/convolutions.h"
#include "kernels/cuda/library/cudnn_plan.h"
#include "kernels/cuda/library/finish.h"
#include "kernels/cuda/plans/drop_old.h"
#include "kernels/cuda/plans/plan_cache.h"
#include "kernels/cuda/plans/plan_keys.h"

namespace spindle::cuda {

namespace {

enum Uid : int64_t { X = 1, W, Y, Bias, Addend };

using Graph = fe::graph::Graph;
using GraphTensor = std::shared_ptr<fe::graph::Tensor_attributes>;

std::vector<int64_t> dims_of(const Shape& nhwc) { return {nhwc[0], nhwc[3], nhwc[1], nhwc[2]}; }
std::vector<int64_t> strides_of(const Shape& nhwc) {
  return {nhwc[1] * nhwc[2] * nhwc[3], 1, nhwc[2] * nhwc[3], nhwc[3]};
}

fe::graph::Tensor_attributes tensor(Uid uid, const char* name, const Shape& nhwc, DType dtype) {
  return fe::graph::Tensor_attributes()
      .set_uid(uid)
      .set_name(name)
      .set_dim(dims_of(nhwc))
      .set_stride(strides_of(nhwc))
      .set_data_type(data_type(dtype));
}

template <class Attributes>
Attributes geometry(const Conv2dArgs& args) {
  return Attributes()
      .set_pre_padding({args.pad_before, args.pad_before})
      .set_post_padding({args.pad_after, args.pad_after})
      .set_stride({args.stride, args.stride})
      .set_dilation({1, 1});
}

GraphTensor add(Graph& graph, const GraphTensor& sum, const GraphTensor& to) {
  sum->set_data_type(fe::DataType_t::FLOAT);
  return graph.pointwise(sum, to,
                         fe::graph::Pointwise_attributes()
                             .set_mode(fe::PointwiseMode_t::ADD)
                             .set_compute_data_type(fe::DataType_t::FLOAT));
}

class CudnnConvolutions : public Convolutions {
 public:
  explicit CudnnConvolutions(const LibraryOptions& options)
      : options_(options), stream_(static_cast<cudaStream_t>(options.stream)), handle_(stream_) {}

  const char* name() const override { return "cudnn"; }

  void forward(const Tensor& y,
               const Tensor& x,
               const Tensor& w,
               const Tensor& bias,
               const Tensor& residual,
               const Conv2dArgs& args) override {
    if (lopsided(args)) return forward(y, padded(x, args), w, bias, residual, unpadded(args));
    const ConvolutionShape shape = shape_of(x, w, args);
    expect(y, {shape.batch, shape.out_height(), shape.out_width(), shape.out_channels}, x.dtype(),
           "y", shape);
    if (bias) expect(bias, {shape.out_channels}, x.dtype(), "bias", shape);
    if (residual) expect(residual, y.shape(), x.dtype(), "residual", shape);
    Call call{ConvolutionPass::Forward, shape, &x, &w};
    if (run(call, y, bias, residual)) return;
    // The sum alone, then the rest in a kernel of our own.
    Tensor sum =
        residual && residual.raw() == y.raw() ? Tensor(*options_.scratch, y.shape(), y.dtype()) : y;
    if (!(bias || residual) || !run(call, sum, {}, {})) refuse(call);
    finish(y, sum, bias, residual, stream_);
  }

  void backward_input(const GradSlot& dx,
                      const Tensor& dy,
                      const Tensor& w,
                      const Conv2dArgs& args) override {
    Tensor target = dx.tensor;
    if (lopsided(args)) {
      Tensor whole = around(target, args);
      backward_input({whole}, dy, w, unpadded(args));
      return crop_images(target, whole, args.pad_before, dx.accumulate, stream_);
    }
    const ConvolutionShape shape = shape_of(target, w, args);
    expect(dy, {shape.batch, shape.out_height(), shape.out_width(), shape.out_channels},
           target.dtype(), "dy", shape);
    gradient({ConvolutionPass::BackwardInput, shape, &dy, &w}, target, dx.accumulate, {});
  }

  void backward_weight(const GradSlot& dw,
                       const Tensor& dy,
                       const Tensor& x,
                       const Conv2dArgs& args) override {
    if (lopsided(args)) return backward_weight(dw, dy, padded(x, args), unpadded(args));
    Tensor target = dw.tensor;
    ConvolutionShape shape = shape_of(x, target, args);
    expect(dy, {shape.batch, shape.out_height(), shape.out_width(), shape.out_channels}, x.dtype(),
           "dy", shape);
    expect(target, target.shape(), DType::F32, "dw", shape);
    gradient({ConvolutionPass::BackwardWeight, shape, &dy, &x}, target, dw.accumulate, x.dtype());
  }

 private:
  // Forward: x, w; backward input: dy, w; backward weight: dy, x.
  struct Call {
    ConvolutionPass pass;
    ConvolutionShape shape;
    const Tensor *first, *second;
  };

  // Few engines pad differently before and after: the zeros are then written out.
  static bool lopsided(const Conv2dArgs& args) { return args.pad_before != args.pad_after; }
  static Conv2dArgs unpadded(Conv2dArgs args) {
    args.pad_before = args.pad_after = 0;
    return args;
  }
  Tensor around(const Tensor& x, const Conv2dArgs& args) {
    require(x.rank() == 4, "[cuDNN] convolution: expected images (B,H,W,C), got ", x.shape());
    int64_t more = args.pad_before + args.pad_after;
    return Tensor(*options_.scratch, {x.dim(0), x.dim(1) + more, x.dim(2) + more, x.dim(3)},
                  x.dtype());
  }
  Tensor padded(const Tensor& x, const Conv2dArgs& args) {
    Tensor whole = around(x, args);
    pad_images(whole, x, args.pad_before, stream_);
    return whole;
  }

  static ConvolutionShape shape_of(const Tensor& x, const Tensor& w, const Conv2dArgs& args) {
    require(x.rank() == 4 && w.rank() == 4 && x.dim(3) == w.dim(3),
            "[cuDNN] convolution: expected x (B,H,W,Ci) and w (Co,R,S,Ci), got ", x.shape(),
            " and ", w.shape());
    return {x.dim(0), x.dim(1), x.dim(2), x.dim(3), w.dim(0), w.dim(1), w.dim(2), args, x.dtype()};
  }

  static void expect(const Tensor& t,
                     const Shape& shape,
                     DType dtype,
                     const char* name,
                     const ConvolutionShape& convolution) {
    require(t.shape() == shape && t.dtype() == dtype, "[cuDNN] convolution ", convolution.text(),
            ": expected ", name, " ", shape, " ", dtype_name(dtype), ", got ", t.shape(), " ",
            dtype_name(t.dtype()));
  }

  [[noreturn]] static void refuse(const Call& call) {
    library_failed("cuDNN", "create_execution_plans", "no engine for it", call.shape.text());
  }

  // The gradient straight into its place where a plan can do that; else into scratch memory, first
  // of the target's type, then of the inputs' `narrow` type, and added by a kernel.
  void gradient(const Call& call,
                const Tensor& target,
                bool accumulate,
                std::optional<DType> narrow) {
    if (run(call, target, {}, accumulate ? target : Tensor())) return;
    if (accumulate) {
      Tensor sum(*options_.scratch, target.shape(), target.dtype());
      if (run(call, sum, {}, {})) return finish(target, sum, {}, target, stream_);
    }
    if (narrow && *narrow != target.dtype()) {
      Tensor sum(*options_.scratch, target.shape(), *narrow);
      if (run(call, sum, {}, {}))
        return finish(target, sum, {}, accumulate ? target : Tensor(), stream_);
    }
    refuse(call);
  }

  // False: no plan does all of that at once.
  bool run(const Call& call, const Tensor& out, const Tensor& bias, const Tensor& addend) {
    const ConvolutionTail tail{bool(bias), bool(addend), out.dtype()};
    std::string key =
        convolution_key(call.pass, call.shape, tail, options_.tf32, options_.deterministic);
    auto pointers = [&](void* target) {
      Pointers p{{X, call.first->raw()}, {W, call.second->raw()}, {Y, target}};
      if (bias) p[Bias] = bias.raw();
      if (addend) p[Addend] = addend.raw();
      return p;
    };
    drop_old(plans_, options_, generation_);
    auto it = plans_.find(key);
    if (it == plans_.end()) {
      Tensor target;
      PlanRequest request{key, call.shape.text(), call.shape.dtype == DType::F32 && !options_.tf32,
                          [&] {
                            if (!target)
                              target = Tensor(*options_.scratch, out.shape(), out.dtype());
                            return pointers(target.raw());
                          }};
      it = plans_
               .emplace(key, make_cudnn_plan(handle_.get(), options_, request,
                                             graph_of(call, out, tail)))
               .first;
    }
    if (!it->second) return false;
    it->second->run(handle_.get(), *options_.scratch, pointers(out.raw()), call.shape.text());
    return true;
  }

  static std::shared_ptr<Graph> graph_of(const Call& call,
                                         const Tensor& out,
                                         const ConvolutionTail& tail) {
    auto graph = std::make_shared<Graph>();
    graph->set_io_data_type(data_type(call.shape.dtype))
        .set_intermediate_data_type(fe::DataType_t::FLOAT)
        .set_compute_data_type(fe::DataType_t::FLOAT);
    auto first = graph->tensor(tensor(X, "first", call.first->shape(), call.first->dtype()));
    auto second = graph->tensor(tensor(W, "second", call.second->shape(), call.second->dtype()));
    GraphTensor y;
    switch (call.pass) {
      case ConvolutionPass::Forward:
        y = graph->conv_fprop(first, second,
                              geometry<fe::graph::Conv_fprop_attributes>(call.shape.args));
        break;
      case ConvolutionPass::BackwardInput:
        y = graph->conv_dgrad(first, second,
                              geometry<fe::graph::Conv_dgrad_attributes>(call.shape.args));
        break;
      case ConvolutionPass::BackwardWeight:
        y = graph->conv_wgrad(first, second,
                              geometry<fe::graph::Conv_wgrad_attributes>(call.shape.args));
        break;
    }
    // A gradient's size does not follow from its inputs'.
    y->set_dim(dims_of(out.shape())).set_stride(strides_of(out.shape()));
    if (tail.bias)
      y = add(*graph, y,
              graph->tensor(tensor(Bias, "bias", {1, 1, 1, call.shape.out_channels}, out.dtype())));
    if (tail.addend)
      y = add(*graph, y, graph->tensor(tensor(Addend, "addend", out.shape(), out.dtype())));
    y->set_output(true)
        .set_uid(Y)
        .set_name("y")
        .set_dim(dims_of(out.shape()))
        .set_stride(strides_of(out.shape()))
        .set_data_type(data_type(out.dtype()));
    return graph;
  }

  LibraryOptions options_;
  cudaStream_t stream_;
  CudnnHandle handle_;
  std::unordered_map<std::string, std::unique_ptr<CudnnPlan>> plans_;
  uint64_t generation_ = 0;
};

}  // namespace

std::unique_ptr<Convolutions> make_cudnn_convolutions(const LibraryOptions& options) {
  return std::make_unique<CudnnConvolutions>(options);
}

}  // namespace spindle::cuda
