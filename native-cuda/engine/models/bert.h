// BERT as BLIP uses it: post-norm layers, each of which also attends to an image's tokens. No token
// types, no pooler.
#pragma once
#include <cstdint>
#include <vector>

#include "nn/linear.h"
#include "nn/norm.h"

namespace spindle {

struct BertConfig {
  int64_t vocab_size = 30524;
  int64_t hidden_size = 768;
  int64_t layers = 12;
  int64_t heads = 12;
  int64_t intermediate_size = 3072;
  int64_t max_position_embeddings = 512;
  double layer_norm_eps = 1e-12;
  int64_t encoder_width = 1024;  // of the image's tokens
};

class BertAttention {
 public:
  // context_width: of what is attended to.
  BertAttention(const Scope& scope, const BertConfig& config, int64_t context_width);
  // x (B, T, C), context (B, Tk, D) -> norm(x + attention)
  Tensor operator()(Tape& tape, const Tensor& x, const Tensor& context) const;

 private:
  nn::Linear query_, key_, value_, dense_;
  nn::LayerNorm norm_;
  AttentionArgs args_;
};

class BertLayer {
 public:
  BertLayer(const Scope& scope, const BertConfig& config);
  Tensor operator()(Tape& tape, const Tensor& x, const Tensor& image) const;

 private:
  BertAttention attention_, crossattention_;
  nn::Linear intermediate_, output_;
  nn::LayerNorm norm_;
};

class BertModel {
 public:
  BertModel(const Scope& scope, const BertConfig& config);
  // Texts of one length: ids (B * T), image (B, Tk, encoder_width) -> last hidden state (B, T, C).
  // Padding does not come here: what a mask would hide is left out by the caller, which gives the
  // same states for the rest.
  Tensor forward(Tape& tape, const std::vector<int32_t>& ids, const Tensor& image) const;

 private:
  Parameter* word_embeddings_;
  Parameter* position_embeddings_;
  nn::LayerNorm norm_;
  std::vector<BertLayer> layers_;
};

}  // namespace spindle
