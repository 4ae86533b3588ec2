/**
 * The configs of Stable Diffusion's releases (diffusers' folders), and of reduced models that have
 * the same parts.
 */
import type { JsonObject } from '../files/json.js';

export const releases = ['sd15', 'sd21', 'sdxl'] as const;
export type Release = (typeof releases)[number];

export interface ReleaseConfigs {
  modelIndex: JsonObject;
  unet: JsonObject;
  vae: JsonObject;
  /** text_encoder and, of SDXL, text_encoder_2. */
  textEncoders: JsonObject[];
  scheduler: JsonObject;
  /** Padding token of each tokenizer; their other settings are the same. */
  padTokens: string[];
}

const eos = '<|endoftext|>';

const unet: JsonObject = {
  _class_name: 'UNet2DConditionModel',
  act_fn: 'silu',
  attention_head_dim: 8,
  block_out_channels: [320, 640, 1280, 1280],
  center_input_sample: false,
  cross_attention_dim: 768,
  down_block_types: [
    'CrossAttnDownBlock2D',
    'CrossAttnDownBlock2D',
    'CrossAttnDownBlock2D',
    'DownBlock2D',
  ],
  downsample_padding: 1,
  flip_sin_to_cos: true,
  freq_shift: 0,
  in_channels: 4,
  layers_per_block: 2,
  mid_block_scale_factor: 1,
  norm_eps: 1e-5,
  norm_num_groups: 32,
  out_channels: 4,
  sample_size: 64,
  up_block_types: ['UpBlock2D', 'CrossAttnUpBlock2D', 'CrossAttnUpBlock2D', 'CrossAttnUpBlock2D'],
};

const vae: JsonObject = {
  _class_name: 'AutoencoderKL',
  act_fn: 'silu',
  block_out_channels: [128, 256, 512, 512],
  down_block_types: [
    'DownEncoderBlock2D',
    'DownEncoderBlock2D',
    'DownEncoderBlock2D',
    'DownEncoderBlock2D',
  ],
  in_channels: 3,
  latent_channels: 4,
  layers_per_block: 2,
  norm_num_groups: 32,
  out_channels: 3,
  sample_size: 512,
  up_block_types: ['UpDecoderBlock2D', 'UpDecoderBlock2D', 'UpDecoderBlock2D', 'UpDecoderBlock2D'],
};

const text: JsonObject = {
  architectures: ['CLIPTextModel'],
  attention_dropout: 0,
  bos_token_id: 0,
  dropout: 0,
  eos_token_id: 2,
  hidden_act: 'quick_gelu',
  hidden_size: 768,
  initializer_factor: 1,
  initializer_range: 0.02,
  intermediate_size: 3072,
  layer_norm_eps: 1e-5,
  max_position_embeddings: 77,
  model_type: 'clip_text_model',
  num_attention_heads: 12,
  num_hidden_layers: 12,
  pad_token_id: 1,
  projection_dim: 768,
  vocab_size: 49408,
};

const noise: JsonObject = {
  beta_end: 0.012,
  beta_schedule: 'scaled_linear',
  beta_start: 0.00085,
  clip_sample: false,
  num_train_timesteps: 1000,
  set_alpha_to_one: false,
  skip_prk_steps: true,
  steps_offset: 1,
  trained_betas: null,
};

const modelIndex: JsonObject = {
  _class_name: 'StableDiffusionPipeline',
  scheduler: ['diffusers', 'PNDMScheduler'],
  text_encoder: ['transformers', 'CLIPTextModel'],
  tokenizer: ['transformers', 'CLIPTokenizer'],
  unet: ['diffusers', 'UNet2DConditionModel'],
  vae: ['diffusers', 'AutoencoderKL'],
};

const released: Readonly<Record<Release, ReleaseConfigs>> = {
  sd15: {
    modelIndex: {
      ...modelIndex,
      feature_extractor: ['transformers', 'CLIPImageProcessor'],
      safety_checker: ['stable_diffusion', 'StableDiffusionSafetyChecker'],
    },
    unet,
    vae,
    textEncoders: [text],
    scheduler: { _class_name: 'PNDMScheduler', ...noise },
    padTokens: [eos],
  },
  sd21: {
    modelIndex: {
      ...modelIndex,
      scheduler: ['diffusers', 'DDIMScheduler'],
      feature_extractor: ['transformers', 'CLIPImageProcessor'],
      requires_safety_checker: false,
      safety_checker: [null, null],
    },
    unet: {
      ...unet,
      attention_head_dim: [5, 10, 20, 20],
      cross_attention_dim: 1024,
      dual_cross_attention: false,
      num_class_embeds: null,
      only_cross_attention: false,
      sample_size: 96,
      upcast_attention: true,
      use_linear_projection: true,
    },
    vae: { ...vae, sample_size: 768 },
    textEncoders: [
      {
        ...text,
        hidden_act: 'gelu',
        hidden_size: 1024,
        intermediate_size: 4096,
        num_attention_heads: 16,
        num_hidden_layers: 23,
        projection_dim: 512,
      },
    ],
    scheduler: { _class_name: 'DDIMScheduler', ...noise, prediction_type: 'v_prediction' },
    padTokens: ['!'],
  },
  sdxl: {
    modelIndex: {
      ...modelIndex,
      _class_name: 'StableDiffusionXLPipeline',
      force_zeros_for_empty_prompt: true,
      scheduler: ['diffusers', 'EulerDiscreteScheduler'],
      text_encoder_2: ['transformers', 'CLIPTextModelWithProjection'],
      tokenizer_2: ['transformers', 'CLIPTokenizer'],
    },
    unet: {
      ...unet,
      addition_embed_type: 'text_time',
      addition_embed_type_num_heads: 64,
      addition_time_embed_dim: 256,
      attention_head_dim: [5, 10, 20],
      block_out_channels: [320, 640, 1280],
      cross_attention_dim: 2048,
      down_block_types: ['DownBlock2D', 'CrossAttnDownBlock2D', 'CrossAttnDownBlock2D'],
      mid_block_type: 'UNetMidBlock2DCrossAttn',
      projection_class_embeddings_input_dim: 2816,
      sample_size: 128,
      transformer_layers_per_block: [1, 2, 10],
      up_block_types: ['CrossAttnUpBlock2D', 'CrossAttnUpBlock2D', 'UpBlock2D'],
      upcast_attention: null,
      use_linear_projection: true,
    },
    vae: { ...vae, force_upcast: true, sample_size: 1024, scaling_factor: 0.13025 },
    textEncoders: [
      text,
      {
        ...text,
        architectures: ['CLIPTextModelWithProjection'],
        hidden_act: 'gelu',
        hidden_size: 1280,
        intermediate_size: 5120,
        num_attention_heads: 20,
        num_hidden_layers: 32,
        projection_dim: 1280,
      },
    ],
    scheduler: {
      _class_name: 'EulerDiscreteScheduler',
      ...noise,
      interpolation_type: 'linear',
      prediction_type: 'epsilon',
      sample_max_value: 1,
      timestep_spacing: 'leading',
      use_karras_sigmas: false,
    },
    padTokens: [eos, '!'],
  },
};

const smallVae: JsonObject = {
  block_out_channels: [8, 16, 16, 16],
  norm_num_groups: 4,
  sample_size: 64,
};
const smallText: JsonObject = {
  hidden_size: 24,
  intermediate_size: 48,
  num_attention_heads: 2,
  num_hidden_layers: 2,
  projection_dim: 24,
  vocab_size: 600,
};
const smallUnet: JsonObject = {
  block_out_channels: [16, 24, 32, 32],
  norm_num_groups: 4,
  sample_size: 8,
};

/** The same blocks, layers per block and options; narrower, and with fewer transformer layers. */
const reductions: Readonly<Record<Release, { unet: JsonObject; textEncoders: JsonObject[] }>> = {
  sd15: {
    unet: { ...smallUnet, attention_head_dim: 2, cross_attention_dim: 24 },
    textEncoders: [smallText],
  },
  sd21: {
    unet: { ...smallUnet, attention_head_dim: [1, 2, 4, 4], cross_attention_dim: 24 },
    textEncoders: [{ ...smallText, projection_dim: 12 }],
  },
  sdxl: {
    unet: {
      ...smallUnet,
      addition_time_embed_dim: 8,
      attention_head_dim: [1, 2, 4],
      block_out_channels: [16, 24, 32],
      cross_attention_dim: 56,
      projection_class_embeddings_input_dim: 32 + 6 * 8,
      transformer_layers_per_block: [1, 2, 3],
    },
    textEncoders: [
      smallText,
      {
        ...smallText,
        hidden_size: 32,
        intermediate_size: 64,
        num_attention_heads: 4,
        num_hidden_layers: 3,
        projection_dim: 32,
      },
    ],
  },
};

export function releaseConfigs(release: Release, reduced = false): ReleaseConfigs {
  const full = released[release];
  if (!reduced) return full;
  const small = reductions[release];
  return {
    ...full,
    unet: { ...full.unet, ...small.unet },
    vae: { ...full.vae, ...smallVae },
    textEncoders: full.textEncoders.map((config, n) => ({ ...config, ...small.textEncoders[n] })),
  };
}
