#include "nn/resnet_block_2d.h"

namespace spindle::nn {

namespace {
GroupNormArgs with_silu(GroupNormArgs args) {
  args.silu = true;
  return args;
}
}  // namespace

ResnetBlock2d::ResnetBlock2d(const Scope& scope, const ResnetBlock2dOptions& options)
    : norm1_(scope / "norm1", options.in_channels, with_silu(options.norm)),
      conv1_(scope / "conv1", options.in_channels, options.out_channels),
      norm2_(scope / "norm2", options.out_channels, with_silu(options.norm)),
      conv2_(scope / "conv2", options.out_channels, options.out_channels) {
  if (options.time_embed_dim > 0)
    time_emb_proj_.emplace(scope / "time_emb_proj", options.time_embed_dim, options.out_channels);
  if (options.in_channels != options.out_channels)
    conv_shortcut_.emplace(scope / "conv_shortcut", options.in_channels, options.out_channels,
                           LinearOptions{.pointwise = true});
}

Tensor ResnetBlock2d::operator()(Tape& tape, const Tensor& x, const Tensor& temb) const {
  Tensor time = time_emb_proj_ ? (*time_emb_proj_)(tape, temb) : Tensor();
  Tensor h = conv1_(tape, norm1_(tape, x), {.per_image = time});
  h = norm2_(tape, h);
  Tensor residual = conv_shortcut_ ? (*conv_shortcut_)(tape, x) : x;
  return conv2_(tape, h, {.residual = residual});
}

}  // namespace spindle::nn
