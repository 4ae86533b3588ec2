// AutoencoderKL of diffusers: images to the mean and log variance of latents, and latents back to
// images. No scaling factor here.
#pragma once
#include <optional>
#include <vector>

#include "io/config.h"
#include "nn/attention.h"
#include "nn/resample_2d.h"
#include "nn/resnet_block_2d.h"

namespace spindle {

struct AutoencoderKLConfig {
  int64_t in_channels = 3, out_channels = 3;
  std::vector<int64_t> block_out_channels;
  int64_t layers_per_block = 1;
  int64_t latent_channels = 4;
  int64_t norm_num_groups = 32;
  bool use_quant_conv = true, use_post_quant_conv = true;
  bool mid_block_add_attention = true;

  // Image pixels per latent pixel, in each direction.
  int64_t reduction() const { return int64_t(1) << (block_out_channels.size() - 1); }
};
AutoencoderKLConfig parse_autoencoder_kl_config(const Config& config);
// The key under which current libraries save what older ones saved as `key`.
std::string rename_legacy_vae_key(const std::string& key);

// Two resnet blocks with single-head self-attention between.
class VaeMidBlock {
 public:
  VaeMidBlock(const Scope& scope, int64_t channels, const AutoencoderKLConfig& config);
  Tensor operator()(Tape& tape, const Tensor& x) const;

 private:
  nn::ResnetBlock2d resnet_in_;
  std::optional<nn::GroupNorm> group_norm_;
  std::optional<nn::Attention> attention_;
  nn::ResnetBlock2d resnet_out_;
};

// One resolution of the encoder or decoder.
struct VaeLevel {
  std::vector<nn::ResnetBlock2d> resnets;
  std::optional<nn::Downsample2d> downsampler;
  std::optional<nn::Upsample2d> upsampler;
  Tensor operator()(Tape& tape, Tensor x) const;
};

class VaeEncoder {
 public:
  VaeEncoder(const Scope& scope, const AutoencoderKLConfig& config);
  Tensor operator()(Tape& tape, const Tensor& x) const;

 private:
  nn::Conv2d conv_in_;
  std::vector<VaeLevel> down_blocks_;
  VaeMidBlock mid_block_;
  nn::GroupNorm conv_norm_out_;
  nn::Conv2d conv_out_;
};

class VaeDecoder {
 public:
  VaeDecoder(const Scope& scope, const AutoencoderKLConfig& config);
  Tensor operator()(Tape& tape, const Tensor& x) const;

 private:
  nn::Conv2d conv_in_;
  VaeMidBlock mid_block_;
  std::vector<VaeLevel> up_blocks_;
  nn::GroupNorm conv_norm_out_;
  nn::Conv2d conv_out_;
};

class AutoencoderKL {
 public:
  AutoencoderKL(const Scope& scope, const AutoencoderKLConfig& config);
  const AutoencoderKLConfig& config() const { return config_; }
  // (B, H, W, in_channels) -> (B, H / reduction, W / reduction, 2 * latent_channels): mean, then
  // log variance, not clamped
  Tensor encode(Tape& tape, const Tensor& image) const;
  // (B, h, w, latent_channels) -> (B, H, W, out_channels)
  Tensor decode(Tape& tape, const Tensor& latent) const;

 private:
  AutoencoderKLConfig config_;
  VaeEncoder encoder_;
  VaeDecoder decoder_;
  std::optional<nn::Linear> quant_conv_, post_quant_conv_;
};

}  // namespace spindle
