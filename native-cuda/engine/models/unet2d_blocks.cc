#include "models/unet2d_blocks.h"

namespace spindle {

namespace {

nn::ResnetBlock2dOptions resnet(const UNetBlockOptions& o, int64_t in) {
  return {.in_channels = in,
          .out_channels = o.out_channels,
          .time_embed_dim = o.time_embed_dim,
          .norm = o.norm};
}

nn::Transformer2dOptions transformer(const UNetBlockOptions& o) {
  return {.channels = o.out_channels,
          .heads = o.heads,
          .layers = o.transformer_layers,
          .cross_attention_dim = o.cross_attention_dim,
          .norm_num_groups = o.norm.groups,
          .use_linear_projection = o.use_linear_projection};
}

}  // namespace

DownBlock::DownBlock(const Scope& scope, const UNetBlockOptions& o) {
  for (int64_t i = 0; i < o.layers; ++i) {
    resnets_.emplace_back(scope / "resnets" / i,
                          resnet(o, i == 0 ? o.in_channels : o.out_channels));
    if (o.cross_attention) attentions_.emplace_back(scope / "attentions" / i, transformer(o));
  }
  if (o.resample) downsampler_.emplace(scope / "downsamplers" / 0, o.out_channels, 1);
}

Tensor DownBlock::operator()(const BlockContext& c, Tensor x, std::vector<Tensor>& skips) const {
  for (size_t i = 0; i < resnets_.size(); ++i) {
    auto body = [this, i, kept = c.kept](Tape& tape, Tensor h, const Tensor& temb,
                                         const Tensor& context) {
      h = resnets_[i](tape, h, temb);
      return attentions_.empty() ? h : attentions_[i](tape, h, context, kept);
    };
    x = c.tape.checkpoint(body, std::move(x), c.temb, c.context);
    skips.push_back(x);
  }
  if (downsampler_) {
    x = (*downsampler_)(c.tape, x);
    skips.push_back(x);
  }
  return x;
}

MidBlock::MidBlock(const Scope& scope, const UNetBlockOptions& o)
    : resnet_in_(scope / "resnets" / 0, resnet(o, o.in_channels)),
      attention_(scope / "attentions" / 0, transformer(o)),
      resnet_out_(scope / "resnets" / 1, resnet(o, o.out_channels)) {}

Tensor MidBlock::operator()(const BlockContext& c, const Tensor& x) const {
  auto body = [this, kept = c.kept](Tape& tape, const Tensor& in, const Tensor& temb,
                                    const Tensor& context) {
    Tensor h = attention_(tape, resnet_in_(tape, in, temb), context, kept);
    return resnet_out_(tape, h, temb);
  };
  return c.tape.checkpoint(body, x, c.temb, c.context);
}

UpBlock::UpBlock(const Scope& scope, const UNetBlockOptions& o) {
  for (int64_t i = 0; i < o.layers; ++i) {
    int64_t skip = i == o.layers - 1 ? o.in_channels : o.out_channels;
    resnets_.emplace_back(scope / "resnets" / i,
                          resnet(o, (i == 0 ? o.previous_channels : o.out_channels) + skip));
    if (o.cross_attention) attentions_.emplace_back(scope / "attentions" / i, transformer(o));
  }
  if (o.resample) upsampler_.emplace(scope / "upsamplers" / 0, o.out_channels);
}

Tensor UpBlock::operator()(const BlockContext& c, Tensor x, std::vector<Tensor>& skips) const {
  for (size_t i = 0; i < resnets_.size(); ++i) {
    auto body = [this, i, kept = c.kept](Tape& tape, Tensor h, Tensor skip, const Tensor& temb,
                                         const Tensor& context) {
      h = ops::concat_channels(tape, h, skip);
      skip = Tensor();
      h = resnets_[i](tape, h, temb);
      return attentions_.empty() ? h : attentions_[i](tape, h, context, kept);
    };
    Tensor skip = std::move(skips.back());
    skips.pop_back();
    x = c.tape.checkpoint(body, std::move(x), std::move(skip), c.temb, c.context);
  }
  if (upsampler_) x = (*upsampler_)(c.tape, x, skips.back().dim(1), skips.back().dim(2));
  return x;
}

}  // namespace spindle
