#include "nn/attention.h"

namespace spindle::nn {

Attention::Attention(const Scope& scope, const AttentionOptions& options)
    : to_q_(scope / "to_q", options.query_dim, options.query_dim, {.bias = options.qkv_bias}),
      to_k_(scope / "to_k", options.context_dim, options.query_dim, {.bias = options.qkv_bias}),
      to_v_(scope / "to_v", options.context_dim, options.query_dim, {.bias = options.qkv_bias}),
      to_out_(scope / "to_out" / 0, options.query_dim, options.query_dim),
      args_{.heads = options.heads} {
  require(options.heads > 0 && options.query_dim % options.heads == 0, "[attention] ", scope.path(),
          ": width ", options.query_dim, " is not divisible into ", options.heads, " heads");
}

Tensor Attention::operator()(Tape& tape,
                             const Tensor& x,
                             const Tensor& context,
                             const Tensor& residual,
                             KeysValues* kept) const {
  KeysValues::Pair fresh, &pair = kept && !tape.recording() ? kept->of(this) : fresh;
  Tensor q = to_q_(tape, x);
  if (!pair.keys) pair = {to_k_(tape, context), to_v_(tape, context)};
  return to_out_(tape, ops::attention(tape, q, pair.keys, pair.values, args_), residual);
}

}  // namespace spindle::nn
