// The three kinds of block that a UNet2DConditionModel is made of.
#pragma once
#include <optional>
#include <vector>

#include "nn/resample_2d.h"
#include "nn/resnet_block_2d.h"
#include "nn/transformer_2d.h"

namespace spindle {

// What every block of a pass is given beside its input.
struct BlockContext {
  Tape& tape;
  Tensor temb;           // (B, time_embed_dim), after its SiLU
  Tensor context;        // (B, T, D) text embeddings
  nn::KeysValues* kept;  // of the context; null: computed anew
};

struct UNetBlockOptions {
  int64_t in_channels, out_channels;
  int64_t previous_channels = 0;  // up blocks: channels of the skips' side of the last resnet
  int64_t layers;
  int64_t time_embed_dim;
  GroupNormArgs norm;
  bool cross_attention;
  int64_t heads, transformer_layers, cross_attention_dim;
  bool use_linear_projection;
  bool resample;  // a down- or upsampler at the end
};

class DownBlock {
 public:
  DownBlock(const Scope& scope, const UNetBlockOptions& options);
  // Appends every intermediate output to `skips`.
  Tensor operator()(const BlockContext& c, Tensor x, std::vector<Tensor>& skips) const;

 private:
  std::vector<nn::ResnetBlock2d> resnets_;
  std::vector<nn::Transformer2d> attentions_;
  std::optional<nn::Downsample2d> downsampler_;
};

class MidBlock {
 public:
  MidBlock(const Scope& scope, const UNetBlockOptions& options);
  Tensor operator()(const BlockContext& c, const Tensor& x) const;

 private:
  nn::ResnetBlock2d resnet_in_;
  nn::Transformer2d attention_;
  nn::ResnetBlock2d resnet_out_;
};

class UpBlock {
 public:
  UpBlock(const Scope& scope, const UNetBlockOptions& options);
  // Takes its skips from the end of `skips`; the upsampler meets the size of the next one.
  Tensor operator()(const BlockContext& c, Tensor x, std::vector<Tensor>& skips) const;

 private:
  std::vector<nn::ResnetBlock2d> resnets_;
  std::vector<nn::Transformer2d> attentions_;
  std::optional<nn::Upsample2d> upsampler_;
};

}  // namespace spindle
