import { all, noEffect, only, read, type ConfigKeys, type KeyRules } from './rules.js';

const common: KeyRules = {
  ...all(['vae', 'text_encoder', 'tokenizer', 'unet', 'scheduler'], read),
  ...all(
    ['safety_checker', 'feature_extractor', 'image_encoder'],
    noEffect(
      'it judges drawn images, or takes images as prompts; a warning says that it is left out',
    ),
  ),
};

export const stableDiffusionKeys: ConfigKeys = {
  file: 'model_index.json',
  of: 'StableDiffusionPipeline',
  library: 'diffusers',
  keys: { ...common, requires_safety_checker: noEffect('no image is checked') },
};

export const stableDiffusionXlKeys: ConfigKeys = {
  file: 'model_index.json',
  of: 'StableDiffusionXLPipeline',
  library: 'diffusers',
  keys: {
    ...common,
    ...all(['text_encoder_2', 'tokenizer_2'], read),
    force_zeros_for_empty_prompt: read,
    // true asks for a watermark in every image.
    add_watermarker: only(false, null),
    requires_safety_checker: noEffect('no image is checked'),
  },
};
