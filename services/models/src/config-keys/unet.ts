import { all, engineOnly, noEffect, read, type ConfigKeys } from './rules.js';

export const unetKeys: ConfigKeys = {
  file: 'unet/config.json',
  of: 'UNet2DConditionModel',
  library: 'diffusers',
  keys: {
    ...all(
      [
        ...['sample_size', 'in_channels', 'out_channels', 'flip_sin_to_cos', 'freq_shift'],
        ...['down_block_types', 'up_block_types', 'block_out_channels', 'layers_per_block'],
        ...['norm_num_groups', 'norm_eps', 'cross_attention_dim', 'attention_head_dim'],
        ...['transformer_layers_per_block', 'use_linear_projection', 'time_embedding_dim'],
        ...['addition_time_embed_dim', 'projection_class_embeddings_input_dim'],
      ],
      read,
    ),
    ...all(
      [
        ...['num_attention_heads', 'encoder_hid_dim', 'encoder_hid_dim_type', 'class_embed_type'],
        ...['num_class_embeds', 'reverse_transformer_layers_per_block', 'time_embedding_act_fn'],
        ...['timestep_post_act', 'time_cond_proj_dim', 'cross_attention_norm'],
        'quantization_config',
      ],
      engineOnly(null),
    ),
    ...all(
      [
        ...['center_input_sample', 'only_cross_attention', 'mid_block_only_cross_attention'],
        ...['dual_cross_attention', 'resnet_skip_time_act', 'class_embeddings_concat'],
      ],
      engineOnly(false, null),
    ),
    ...all(
      ['downsample_padding', 'mid_block_scale_factor', 'resnet_out_scale_factor'],
      engineOnly(1),
    ),
    // It counts in training alone, where we have none.
    dropout: engineOnly(0),
    ...all(['conv_in_kernel', 'conv_out_kernel'], engineOnly(3)),
    act_fn: engineOnly('silu', 'swish'),
    mid_block_type: engineOnly('UNetMidBlock2DCrossAttn'),
    resnet_time_scale_shift: engineOnly('default'),
    time_embedding_type: engineOnly('positional'),
    attention_type: engineOnly('default'),
    addition_embed_type: engineOnly(null, 'text_time'),
    upcast_attention: noEffect(
      'scores and softmax are float32 in every precision, which is what it asks for',
    ),
    addition_embed_type_num_heads: noEffect(
      'it is of addition_embed_type "text" alone, which is refused',
    ),
  },
};
