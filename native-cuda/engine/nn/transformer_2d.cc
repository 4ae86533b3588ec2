#include "nn/transformer_2d.h"

namespace spindle::nn {

BasicTransformerBlock::BasicTransformerBlock(const Scope& scope,
                                             const Transformer2dOptions& options)
    : norm1_(scope / "norm1", options.channels),
      attn1_(
          scope / "attn1",
          {.query_dim = options.channels, .context_dim = options.channels, .heads = options.heads}),
      norm2_(scope / "norm2", options.channels),
      attn2_(scope / "attn2",
             {.query_dim = options.channels,
              .context_dim = options.cross_attention_dim,
              .heads = options.heads}),
      norm3_(scope / "norm3", options.channels),
      ff_in_(scope / "ff" / "net" / 0 / "proj", options.channels, 8 * options.channels),
      ff_out_(scope / "ff" / "net" / 2, 4 * options.channels, options.channels) {}

Tensor BasicTransformerBlock::operator()(Tape& tape,
                                         Tensor x,
                                         const Tensor& context,
                                         KeysValues* kept) const {
  Tensor normed = norm1_(tape, x);
  x = attn1_(tape, normed, normed, x);
  x = attn2_(tape, norm2_(tape, x), context, x, kept);
  return ff_out_(tape, ops::linear_geglu(tape, norm3_(tape, x), *ff_in_.weight, ff_in_.bias), x);
}

Transformer2d::Transformer2d(const Scope& scope, const Transformer2dOptions& options)
    : norm_(scope / "norm", options.channels, {.groups = options.norm_num_groups, .eps = 1e-6}),
      proj_in_(scope / "proj_in",
               options.channels,
               options.channels,
               {.pointwise = !options.use_linear_projection}),
      proj_out_(scope / "proj_out",
                options.channels,
                options.channels,
                {.pointwise = !options.use_linear_projection}) {
  for (int64_t i = 0; i < options.layers; ++i)
    transformer_blocks_.emplace_back(scope / "transformer_blocks" / i, options);
}

Tensor Transformer2d::operator()(Tape& tape,
                                 const Tensor& x,
                                 const Tensor& context,
                                 KeysValues* kept) const {
  Tensor h = norm_(tape, x).reshape({x.dim(0), x.dim(1) * x.dim(2), x.dim(3)});
  h = proj_in_(tape, h);
  for (const BasicTransformerBlock& block : transformer_blocks_) h = block(tape, h, context, kept);
  return proj_out_(tape, h, x).reshape(x.shape());
}

}  // namespace spindle::nn
