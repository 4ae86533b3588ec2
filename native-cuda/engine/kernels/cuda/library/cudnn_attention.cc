// Attention by cuDNN's flash attention. Our tensors are (B, T, C) with the heads side by side in C,
// which it takes as (B, heads, T, width) by their strides.
#include <unordered_map>

#include "kernels/cuda/fused_attention.h"
#include "kernels/cuda/library/cudnn_plan.h"
#include "kernels/cuda/library/finish.h"
#include "kernels/cuda/plans/drop_old.h"
#include "kernels/cuda/plans/plan_cache.h"
#include "kernels/cuda/plans/plan_keys.h"

namespace spindle::cuda {

namespace {

enum Uid : int64_t { Q = 1, K, V, O, Lse, DO, DQ, DK, DV };

using Graph = fe::graph::Graph;
using GraphTensor = std::shared_ptr<fe::graph::Tensor_attributes>;

double scale_of(const AttentionShape& shape, const AttentionArgs& args) {
  return args.scale != 0 ? args.scale : 1 / std::sqrt(double(shape.width));
}

class CudnnAttention : public FusedAttention {
 public:
  explicit CudnnAttention(const LibraryOptions& options)
      : options_(options), handle_(static_cast<cudaStream_t>(options.stream)) {}

  const char* name() const override { return "cudnn"; }

  bool takes(const AttentionShape& shape, bool gradients) override {
    // The scale is a constant of the graph and decides nothing.
    AttentionArgs args{.heads = shape.heads, .causal = shape.causal};
    return shape.dtype == DType::BF16 && shape.width % 8 == 0 && plan(shape, args, false) &&
           (!gradients || plan(shape, args, true));
  }

  void forward(const AttentionForward& op) override {
    AttentionShape shape(op.q, op.k, op.args);
    const CudnnPlan* p = plan(shape, op.args, false);
    if (!p) refuse(shape, op.args);
    p->run(
        handle_.get(), *options_.scratch,
        {{Q, op.q.raw()}, {K, op.k.raw()}, {V, op.v.raw()}, {O, op.o.raw()}, {Lse, op.lse.raw()}},
        text(shape, op.args));
  }

  void backward(const AttentionBackward& op) override {
    AttentionShape shape(op.q, op.k, op.args);
    const CudnnPlan* p = plan(shape, op.args, true);
    if (!p) refuse(shape, op.args);
    // It writes all three and adds to none.
    auto target = [&](const GradSlot& slot, const Tensor& like) {
      return slot && !slot.accumulate ? slot.tensor
                                      : Tensor(*options_.scratch, like.shape(), like.dtype());
    };
    Tensor tq = target(op.dq, op.q), tk = target(op.dk, op.k), tv = target(op.dv, op.v);
    p->run(handle_.get(), *options_.scratch,
           {{Q, op.q.raw()},
            {K, op.k.raw()},
            {V, op.v.raw()},
            {O, op.o.raw()},
            {Lse, op.lse.raw()},
            {DO, op.d_o.raw()},
            {DQ, tq.raw()},
            {DK, tk.raw()},
            {DV, tv.raw()}},
           text(shape, op.args));
    auto add = [&](const GradSlot& slot, const Tensor& sum) {
      if (!slot || !slot.accumulate) return;
      finish(slot.tensor, sum, {}, slot.tensor, static_cast<cudaStream_t>(options_.stream));
    };
    add(op.dq, tq);
    add(op.dk, tk);
    add(op.dv, tv);
  }

 private:
  static std::string text(const AttentionShape& s, const AttentionArgs& args) {
    return attention_key(s, scale_of(s, args), false, true);
  }
  [[noreturn]] static void refuse(const AttentionShape& s, const AttentionArgs& args) {
    library_failed("cuDNN", "create_execution_plans", "no engine for it; ask takes() first",
                   text(s, args));
  }

  // (B,T,C)
  static GraphTensor tokens(Graph& graph,
                            Uid uid,
                            const char* name,
                            const AttentionShape& s,
                            int64_t length) {
    return graph.tensor(
        fe::graph::Tensor_attributes()
            .set_uid(uid)
            .set_name(name)
            .set_dim({s.batch, s.heads, length, s.width})
            .set_stride({length * s.heads * s.width, s.width, s.heads * s.width, 1}));
  }
  static void output(const GraphTensor& t, Uid uid, const AttentionShape& s, int64_t length) {
    t->set_output(true)
        .set_uid(uid)
        .set_dim({s.batch, s.heads, length, s.width})
        .set_stride({length * s.heads * s.width, s.width, s.heads * s.width, 1});
  }

  const CudnnPlan* plan(const AttentionShape& s, const AttentionArgs& args, bool backward) {
    double scale = scale_of(s, args);
    std::string key = attention_key(s, scale, backward, options_.deterministic);
    drop_old(plans_, options_, generation_);
    auto it = plans_.find(key);
    // Engines differ little here, and trying them needs tensors that are not at hand when takes()
    // asks: the first one is taken.
    if (it == plans_.end())
      it = plans_
               .emplace(key, make_cudnn_plan(
                                 handle_.get(), options_, {key, text(s, args), false, {}},
                                 backward ? backward_graph(s, scale) : forward_graph(s, scale)))
               .first;
    return it->second.get();
  }

  static std::shared_ptr<Graph> new_graph() {
    auto graph = std::make_shared<Graph>();
    graph->set_io_data_type(fe::DataType_t::BFLOAT16)
        .set_intermediate_data_type(fe::DataType_t::FLOAT)
        .set_compute_data_type(fe::DataType_t::FLOAT);
    return graph;
  }

  static std::shared_ptr<Graph> forward_graph(const AttentionShape& s, double scale) {
    auto graph = new_graph();
    auto options = fe::graph::SDPA_attributes()
                       .set_name("attention")
                       .set_generate_stats(true)
                       .set_attn_scale(float(scale));
    if (s.causal)
      options.set_diagonal_alignment(fe::DiagonalAlignment_t::TOP_LEFT)
          .set_diagonal_band_right_bound(0);
    auto [o, lse] =
        graph->sdpa(tokens(*graph, Q, "q", s, s.queries), tokens(*graph, K, "k", s, s.keys),
                    tokens(*graph, V, "v", s, s.keys), options);
    output(o, O, s, s.queries);
    lse->set_output(true)
        .set_uid(Lse)
        .set_data_type(fe::DataType_t::FLOAT)
        .set_dim({s.batch, s.heads, s.queries, 1})
        .set_stride({s.heads * s.queries, s.queries, 1, 1});
    return graph;
  }

  std::shared_ptr<Graph> backward_graph(const AttentionShape& s, double scale) const {
    auto graph = new_graph();
    auto options = fe::graph::SDPA_backward_attributes()
                       .set_name("attention_backward")
                       .set_attn_scale(float(scale))
                       .set_deterministic_algorithm(options_.deterministic);
    if (s.causal)
      options.set_diagonal_alignment(fe::DiagonalAlignment_t::TOP_LEFT)
          .set_diagonal_band_right_bound(0);
    auto lse = graph->tensor(fe::graph::Tensor_attributes()
                                 .set_uid(Lse)
                                 .set_name("lse")
                                 .set_data_type(fe::DataType_t::FLOAT)
                                 .set_dim({s.batch, s.heads, s.queries, 1})
                                 .set_stride({s.heads * s.queries, s.queries, 1, 1}));
    auto [dq, dk, dv] = graph->sdpa_backward(
        tokens(*graph, Q, "q", s, s.queries), tokens(*graph, K, "k", s, s.keys),
        tokens(*graph, V, "v", s, s.keys), tokens(*graph, O, "o", s, s.queries),
        tokens(*graph, DO, "d_o", s, s.queries), lse, options);
    output(dq, DQ, s, s.queries);
    output(dk, DK, s, s.keys);
    output(dv, DV, s, s.keys);
    return graph;
  }

  LibraryOptions options_;
  CudnnHandle handle_;
  std::unordered_map<std::string, std::unique_ptr<CudnnPlan>> plans_;
  uint64_t generation_ = 0;
};

}  // namespace

std::unique_ptr<FusedAttention> make_cudnn_attention(const LibraryOptions& options) {
  return std::make_unique<CudnnAttention>(options);
}

}  // namespace spindle::cuda
