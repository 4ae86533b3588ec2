/** CLIP's configs: the lone text encoder's, and the whole model's with its two towers. */
import { all, engineOnly, noEffect, only, read, type ConfigKeys, type KeyRules } from './rules.js';
import { commonKeys } from './transformers-common.js';

const tower: KeyRules = {
  ...commonKeys,
  ...all(
    [
      ...['hidden_size', 'intermediate_size', 'num_hidden_layers', 'num_attention_heads'],
      ...['hidden_act', 'layer_norm_eps'],
    ],
    read,
  ),
};

const text: KeyRules = {
  ...tower,
  ...all(['vocab_size', 'max_position_embeddings', 'eos_token_id'], read),
};

export const textEncoderKeys: ConfigKeys = {
  file: 'text_encoder/config.json',
  of: 'CLIPTextModel',
  library: 'transformers',
  keys: {
    ...text,
    model_type: only('clip_text_model', 'clip', null),
    // They say whether, and to what width, the pooled state is projected.
    ...all(['architectures', 'projection_dim'], read),
    // A whole CLIP model's config, of which the library reads this part.
    text_config: engineOnly(null),
    // diffusers' pipelines read it.
    use_attention_mask: only(false, null),
    ...all(
      ['vision_config', 'text_config_dict', 'vision_config_dict', 'logit_scale_init_value'],
      noEffect('it is of a whole CLIP model'),
    ),
  },
};

const modelsOwn = noEffect("the projection's width is the whole model's projection_dim");

export const clipTextKeys: ConfigKeys = {
  file: 'config.json of a judge, text_config',
  of: 'CLIPTextConfig',
  library: 'transformers',
  keys: { ...text, projection_dim: modelsOwn },
};

export const clipVisionKeys: ConfigKeys = {
  file: 'config.json of a judge, vision_config',
  of: 'CLIPVisionConfig',
  library: 'transformers',
  keys: {
    ...tower,
    ...all(['num_channels', 'image_size', 'patch_size'], read),
    projection_dim: modelsOwn,
    eos_token_id: noEffect('images have no tokens'),
  },
};

export const clipKeys: ConfigKeys = {
  file: 'config.json of a judge',
  of: 'CLIPConfig',
  library: 'transformers',
  keys: {
    ...commonKeys,
    ...all(
      [
        ...['projection_dim', 'text_config', 'vision_config'],
        ...['text_config_dict', 'vision_config_dict'],
      ],
      read,
    ),
    model_type: only('clip', null),
    logit_scale_init_value: noEffect('the scale is a weight of the file'),
    eos_token_id: noEffect("the end of a text is text_config's"),
  },
};
