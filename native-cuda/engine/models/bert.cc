#include "models/bert.h"

namespace spindle {

BertAttention::BertAttention(const Scope& scope, const BertConfig& c, int64_t context_width)
    : query_(scope / "self" / "query", c.hidden_size, c.hidden_size),
      key_(scope / "self" / "key", context_width, c.hidden_size),
      value_(scope / "self" / "value", context_width, c.hidden_size),
      dense_(scope / "output" / "dense", c.hidden_size, c.hidden_size),
      norm_(scope / "output" / "LayerNorm", c.hidden_size, c.layer_norm_eps),
      args_{.heads = c.heads} {}

Tensor BertAttention::operator()(Tape& tape, const Tensor& x, const Tensor& context) const {
  Tensor h =
      ops::attention(tape, query_(tape, x), key_(tape, context), value_(tape, context), args_);
  return norm_(tape, dense_(tape, h, x));
}

BertLayer::BertLayer(const Scope& scope, const BertConfig& c)
    : attention_(scope / "attention", c, c.hidden_size),
      crossattention_(scope / "crossattention", c, c.encoder_width),
      intermediate_(scope / "intermediate" / "dense", c.hidden_size, c.intermediate_size),
      output_(scope / "output" / "dense", c.intermediate_size, c.hidden_size),
      norm_(scope / "output" / "LayerNorm", c.hidden_size, c.layer_norm_eps) {}

Tensor BertLayer::operator()(Tape& tape, const Tensor& x, const Tensor& image) const {
  Tensor h = crossattention_(tape, attention_(tape, x, x), image);
  return norm_(tape,
               output_(tape, ops::activation(tape, intermediate_(tape, h), Activation::Gelu), h));
}

BertModel::BertModel(const Scope& scope, const BertConfig& c)
    : word_embeddings_(
          (scope / "embeddings" / "word_embeddings")
              .parameter("weight", {c.vocab_size, c.hidden_size}, ParameterKind::Vector)),
      position_embeddings_((scope / "embeddings" / "position_embeddings")
                               .parameter("weight",
                                          {c.max_position_embeddings, c.hidden_size},
                                          ParameterKind::Vector)),
      norm_(scope / "embeddings" / "LayerNorm", c.hidden_size, c.layer_norm_eps) {
  for (int64_t i = 0; i < c.layers; ++i) layers_.emplace_back(scope / "encoder" / "layer" / i, c);
}

Tensor BertModel::forward(Tape& tape, const std::vector<int32_t>& ids, const Tensor& image) const {
  Tensor x = norm_(tape, ops::token_embedding(tape, ids, image.dim(0), *word_embeddings_,
                                              *position_embeddings_, image.dtype()));
  for (const BertLayer& layer : layers_) x = layer(tape, x, image);
  return x;
}

}  // namespace spindle
