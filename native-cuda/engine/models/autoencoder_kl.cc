#include "models/autoencoder_kl.h"

#include "models/config_fields.h"

namespace spindle {

AutoencoderKLConfig parse_autoencoder_kl_config(const Config& config) {
  AutoencoderKLConfig c;
  c.in_channels = positive(config, "in_channels", 3);
  c.out_channels = positive(config, "out_channels", 3);
  c.block_out_channels = config.has("block_out_channels")
                             ? per_level(config, "block_out_channels", 0, 0)
                             : std::vector<int64_t>{64};
  c.layers_per_block = positive(config, "layers_per_block", 1);
  c.latent_channels = positive(config, "latent_channels", 4);
  c.norm_num_groups = positive(config, "norm_num_groups", 32);
  c.use_quant_conv = config.boolean("use_quant_conv", true);
  c.use_post_quant_conv = config.boolean("use_post_quant_conv", true);
  c.mid_block_add_attention = config.boolean("mid_block_add_attention", true);
  auto check_types = [&](const char* key, const char* type) {
    std::vector<std::string> types =
        config.has(key) ? config.strings(key) : std::vector<std::string>{type};
    if (types != std::vector<std::string>(c.block_out_channels.size(), type))
      config.refuse(key, cat(c.block_out_channels.size(), " times ", type));
  };
  check_types("down_block_types", "DownEncoderBlock2D");
  check_types("up_block_types", "UpDecoderBlock2D");
  config.only("_class_name", {"AutoencoderKL"});
  config.only("act_fn", {"silu", "swish"});
  // scaling_factor is applied by who calls.
  for (const char* key : {"latents_mean", "latents_std", "quantization_config"})
    config.only(key, {});
  config.only("shift_factor", {Json(), 0, 0.0});
  return c;
}

std::string rename_legacy_vae_key(const std::string& key) {
  // Checkpoints from before diffusers 0.12 name the attention's layers so.
  static const std::pair<const char*, const char*> renamed[] = {{".query.", ".to_q."},
                                                                {".key.", ".to_k."},
                                                                {".value.", ".to_v."},
                                                                {".proj_attn.", ".to_out.0."}};
  size_t attention = key.find(".attentions.0.");
  if (attention == std::string::npos) return key;
  for (auto [old, now] : renamed)
    if (size_t at = key.find(old, attention); at != std::string::npos)
      return key.substr(0, at) + now + key.substr(at + std::string(old).size());
  return key;
}

namespace {

GroupNormArgs norm(const AutoencoderKLConfig& c, bool silu = false) {
  return {.groups = c.norm_num_groups, .eps = 1e-6, .silu = silu};
}

nn::ResnetBlock2dOptions resnet(const AutoencoderKLConfig& c, int64_t in, int64_t out) {
  return {.in_channels = in, .out_channels = out, .time_embed_dim = 0, .norm = norm(c)};
}

VaeLevel level(const Scope& scope,
               const AutoencoderKLConfig& c,
               int64_t in,
               int64_t out,
               int64_t layers) {
  VaeLevel l;
  for (int64_t i = 0; i < layers; ++i)
    l.resnets.emplace_back(scope / "resnets" / i, resnet(c, i == 0 ? in : out, out));
  return l;
}

}  // namespace

VaeMidBlock::VaeMidBlock(const Scope& scope, int64_t channels, const AutoencoderKLConfig& config)
    : resnet_in_(scope / "resnets" / 0, resnet(config, channels, channels)),
      resnet_out_(scope / "resnets" / 1, resnet(config, channels, channels)) {
  if (!config.mid_block_add_attention) return;
  Scope attention = scope / "attentions" / 0;
  group_norm_.emplace(attention / "group_norm", channels, norm(config));
  attention_.emplace(
      attention, nn::AttentionOptions{
                     .query_dim = channels, .context_dim = channels, .heads = 1, .qkv_bias = true});
}

Tensor VaeMidBlock::operator()(Tape& tape, const Tensor& x) const {
  Tensor h = resnet_in_(tape, x);
  if (attention_) {
    Tensor tokens = (*group_norm_)(tape, h).reshape({h.dim(0), h.dim(1) * h.dim(2), h.dim(3)});
    h = (*attention_)(tape, tokens, tokens, h).reshape(h.shape());
  }
  return resnet_out_(tape, h);
}

Tensor VaeLevel::operator()(Tape& tape, Tensor x) const {
  for (const nn::ResnetBlock2d& resnet : resnets) x = resnet(tape, x);
  if (downsampler) x = (*downsampler)(tape, x);
  if (upsampler) x = (*upsampler)(tape, x, 2 * x.dim(1), 2 * x.dim(2));
  return x;
}

VaeEncoder::VaeEncoder(const Scope& scope, const AutoencoderKLConfig& c)
    : conv_in_(scope / "conv_in", c.in_channels, c.block_out_channels.front()),
      mid_block_(scope / "mid_block", c.block_out_channels.back(), c),
      conv_norm_out_(scope / "conv_norm_out", c.block_out_channels.back(), norm(c, true)),
      conv_out_(scope / "conv_out", c.block_out_channels.back(), 2 * c.latent_channels) {
  size_t levels = c.block_out_channels.size();
  for (size_t i = 0; i < levels; ++i) {
    Scope at = scope / "down_blocks" / int64_t(i);
    int64_t out = c.block_out_channels[i];
    down_blocks_.push_back(
        level(at, c, c.block_out_channels[i == 0 ? 0 : i - 1], out, c.layers_per_block));
    if (i + 1 < levels) down_blocks_.back().downsampler.emplace(at / "downsamplers" / 0, out, 0);
  }
}

Tensor VaeEncoder::operator()(Tape& tape, const Tensor& x) const {
  Tensor h = conv_in_(tape, x);
  for (const VaeLevel& block : down_blocks_) h = block(tape, h);
  h = mid_block_(tape, h);
  return conv_out_(tape, conv_norm_out_(tape, h));
}

VaeDecoder::VaeDecoder(const Scope& scope, const AutoencoderKLConfig& c)
    : conv_in_(scope / "conv_in", c.latent_channels, c.block_out_channels.back()),
      mid_block_(scope / "mid_block", c.block_out_channels.back(), c),
      conv_norm_out_(scope / "conv_norm_out", c.block_out_channels.front(), norm(c, true)),
      conv_out_(scope / "conv_out", c.block_out_channels.front(), c.out_channels) {
  size_t levels = c.block_out_channels.size();
  for (size_t i = 0; i < levels; ++i) {
    Scope at = scope / "up_blocks" / int64_t(i);
    int64_t out = c.block_out_channels[levels - 1 - i];
    up_blocks_.push_back(level(at, c, c.block_out_channels[i == 0 ? levels - 1 : levels - i], out,
                               c.layers_per_block + 1));
    if (i + 1 < levels) up_blocks_.back().upsampler.emplace(at / "upsamplers" / 0, out);
  }
}

Tensor VaeDecoder::operator()(Tape& tape, const Tensor& x) const {
  Tensor h = mid_block_(tape, conv_in_(tape, x));
  for (const VaeLevel& block : up_blocks_) h = block(tape, h);
  return conv_out_(tape, conv_norm_out_(tape, h));
}

AutoencoderKL::AutoencoderKL(const Scope& scope, const AutoencoderKLConfig& config)
    : config_(config), encoder_(scope / "encoder", config), decoder_(scope / "decoder", config) {
  int64_t latent = config.latent_channels;
  if (config.use_quant_conv)
    quant_conv_.emplace(scope / "quant_conv", 2 * latent, 2 * latent,
                        nn::LinearOptions{.pointwise = true});
  if (config.use_post_quant_conv)
    post_quant_conv_.emplace(scope / "post_quant_conv", latent, latent,
                             nn::LinearOptions{.pointwise = true});
}

Tensor AutoencoderKL::encode(Tape& tape, const Tensor& image) const {
  require(image.rank() == 4 && image.dim(3) == config_.in_channels,
          "[vae] image: expected (B, H, W, ", config_.in_channels, "), got ", image.shape());
  int64_t step = config_.reduction();
  require(
      image.dim(1) > 0 && image.dim(2) > 0 && image.dim(1) % step == 0 && image.dim(2) % step == 0,
      "[vae] image: expected height and width to be multiples of ", step, ", got ", image.shape());
  Tensor moments = encoder_(tape, image);
  return quant_conv_ ? (*quant_conv_)(tape, moments) : moments;
}

Tensor AutoencoderKL::decode(Tape& tape, const Tensor& latent) const {
  require(latent.rank() == 4 && latent.dim(3) == config_.latent_channels,
          "[vae] latent: expected (B, h, w, ", config_.latent_channels, "), got ", latent.shape());
  return decoder_(tape, post_quant_conv_ ? (*post_quant_conv_)(tape, latent) : latent);
}

}  // namespace spindle
