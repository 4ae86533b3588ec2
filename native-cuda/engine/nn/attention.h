// Multi-head attention of the diffusion models: projections without bias unless asked, output projection with.
#pragma once
#include "nn/linear.h"

namespace spindle::nn {

struct AttentionOptions {
  int64_t query_dim;
  int64_t context_dim;  // of what is attended to
  int64_t heads;
  bool qkv_bias = false;
};

class Attention {
 public:
  Attention(const Scope& scope, const AttentionOptions& options);
  // x (B, Tq, C), context (B, Tk, D) -> (B, Tq, C) + residual
  Tensor operator()(Tape& tape, const Tensor& x, const Tensor& context, const Tensor& residual) const;

 private:
  Linear to_q_, to_k_, to_v_, to_out_;
  AttentionArgs args_;
};

}  // namespace spindle::nn
