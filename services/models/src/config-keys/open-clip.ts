/**
 * open_clip_config.json, beside weights in open_clip's layout. Widths, layers and sizes are told
 * from the tensors: what the file says of them has no effect.
 */
import { all, noEffect, only, read, type ConfigKeys, type KeyRules } from './rules.js';

const fromTensors = noEffect('the tensors say it');
const training = noEffect('it counts in training alone, and judges are not trained');

const tower: KeyRules = {
  ...all(['layers', 'width', 'mlp_ratio'], fromTensors),
  ls_init_value: only(null),
  ...all(['act_kwargs', 'norm_kwargs'], only({}, null)),
  ...all(['final_ln_after_pool', 'qk_norm', 'scaled_cosine_attn', 'scale_heads'], only(false)),
  ...all(['scale_attn_inner', 'scale_attn', 'scale_fc'], only(false)),
  block_type: only('default', null),
  output_tokens: noEffect('it chooses what a call returns, not what it computes'),
};

export const openClipKeys: ConfigKeys = {
  file: 'open_clip_config.json, model_cfg',
  of: 'CLIP',
  library: 'open_clip',
  keys: {
    ...all(['vision_cfg', 'text_cfg', 'quick_gelu'], read),
    embed_dim: fromTensors,
    custom_text: noEffect('it names the same tensors differently, and both names are known'),
    multimodal_cfg: only(null),
    init_logit_bias: only(null),
    nonscalar_logit_scale: only(false),
    init_logit_scale: noEffect('the scale is a weight of the file'),
    ...all(['cast_dtype', 'output_dict'], noEffect("the run's precision and our own code decide")),
  },
};

export const openClipVisionKeys: ConfigKeys = {
  file: 'open_clip_config.json, vision_cfg',
  of: 'CLIPVisionCfg',
  library: 'open_clip',
  keys: {
    ...tower,
    head_width: read,
    patch_size: fromTensors,
    // Where the tensors are of another size, the library stretches them.
    image_size: read,
    ...all(['attentional_pool', 'no_ln_pre'], only(false)),
    pos_embed_type: only('learnable'),
    pool_type: only('tok'),
    timm_model_name: only(null),
    ...all(
      [
        ...['attn_pooler_queries', 'attn_pooler_heads', 'timm_model_pretrained', 'timm_pool'],
        ...['timm_proj', 'timm_proj_bias', 'timm_drop', 'timm_drop_path'],
      ],
      noEffect('it is of attentional_pool or timm_model_name, which are refused'),
    ),
    patch_dropout: training,
  },
};

export const openClipTextKeys: ConfigKeys = {
  file: 'open_clip_config.json, text_cfg',
  of: 'CLIPTextCfg',
  library: 'open_clip',
  keys: {
    ...tower,
    heads: read,
    vocab_size: fromTensors,
    context_length: read,
    ...all(['hf_tokenizer_name', 'hf_model_name'], only(null)),
    tokenizer_mode: only(null),
    tokenizer_kwargs: only({}, null),
    ...all(['embed_cls', 'no_causal_mask', 'proj_bias'], only(false)),
    pool_type: only('argmax'),
    proj_type: only('linear'),
    pad_id: noEffect('what stands behind the end of a text is not looked at'),
    eos_id: noEffect('it is of pool_type "eos", which is refused'),
    ...all(
      ['hf_model_pretrained', 'hf_proj_type', 'hf_pooler_type'],
      noEffect('it is of hf_model_name, which is refused'),
    ),
  },
};

export const openClipPreprocessKeys: ConfigKeys = {
  file: 'open_clip_config.json, preprocess_cfg',
  of: 'PreprocessCfg',
  library: 'open_clip',
  keys: {
    ...all(['mean', 'std'], read),
    mode: only('RGB'),
    // "random" is for training; images are judged with bicubic then.
    interpolation: only('bicubic', 'bilinear', 'random'),
    resize_mode: only('shortest'),
    size: noEffect("it is the model's image_size, whatever the file says"),
    fill_color: noEffect('it is of resize_mode "longest", which is refused'),
  },
};
