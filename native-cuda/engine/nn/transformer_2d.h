// Transformer2DModel: norm, projection in, blocks of self-attention, cross-attention and gated
// feed-forward, projection out.
#pragma once
#include <vector>

#include "nn/attention.h"
#include "nn/norm.h"

namespace spindle::nn {

struct Transformer2dOptions {
  int64_t channels;
  int64_t heads;
  int64_t layers;
  int64_t cross_attention_dim;
  int64_t norm_num_groups;
  bool use_linear_projection;  // decides only how files hold proj_in and proj_out
};

class BasicTransformerBlock {
 public:
  BasicTransformerBlock(const Scope& scope, const Transformer2dOptions& options);
  // x (B, T, C), context (B, Tk, D); `kept` of the context, or null
  Tensor operator()(Tape& tape, Tensor x, const Tensor& context, KeysValues* kept) const;

 private:
  LayerNorm norm1_;
  Attention attn1_;
  LayerNorm norm2_;
  Attention attn2_;
  LayerNorm norm3_;
  Linear ff_in_, ff_out_;
};

class Transformer2d {
 public:
  Transformer2d(const Scope& scope, const Transformer2dOptions& options);
  // x (B, H, W, C), context (B, Tk, D), `kept` of the context or null -> (B, H, W, C)
  Tensor operator()(Tape& tape, const Tensor& x, const Tensor& context, KeysValues* kept) const;

 private:
  GroupNorm norm_;
  Linear proj_in_;
  std::vector<BasicTransformerBlock> transformer_blocks_;
  Linear proj_out_;
};

}  // namespace spindle::nn
