import { all, engineOnly, noEffect, read, type ConfigKeys } from './rules.js';

export const vaeKeys: ConfigKeys = {
  file: 'vae/config.json',
  of: 'AutoencoderKL',
  library: 'diffusers',
  keys: {
    ...all(
      [
        ...['in_channels', 'out_channels', 'down_block_types', 'up_block_types'],
        ...['block_out_channels', 'layers_per_block', 'latent_channels', 'norm_num_groups'],
        ...['use_quant_conv', 'use_post_quant_conv', 'mid_block_add_attention', 'scaling_factor'],
      ],
      read,
    ),
    act_fn: engineOnly('silu', 'swish'),
    ...all(['latents_mean', 'latents_std', 'quantization_config'], engineOnly(null)),
    shift_factor: engineOnly(null, 0),
    sample_size: noEffect('it sizes the tiles of tiled decoding, which we have not'),
    force_upcast: noEffect('it asks for float32 instead of float16, in which no VAE runs here'),
  },
};
