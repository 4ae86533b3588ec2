/** Reads a diffusers text-to-image folder: model_index.json, component configs, weights, tokenizer, scheduler. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { invalid } from './errors.js';
import { describe, numberField, parseJson, readJsonObject, stringField, stringifyJson, isObject, type JsonObject } from './json.js';
import type { ModelSourceDto } from './native.js';
import { ClipTokenizer } from './tokenizer.js';
import { componentSource, requireDirectory } from './weights.js';

export interface VaeScaling {
  scalingFactor: number;
  shiftFactor: number;
  /** Pixels per latent pixel. */
  scale: number;
  latentChannels: number;
}

export interface Pipeline {
  directory: string;
  unet: ModelSourceDto;
  vae: ModelSourceDto;
  textEncoder: ModelSourceDto;
  unetConfig: JsonObject;
  vaeScaling: VaeScaling;
  /** scheduler_config.json with _class_name. */
  scheduler: JsonObject;
  tokenizer: ClipTokenizer;
  /** Tokens a prompt is padded and cut to. */
  textTokens: number;
  textWidth: number;
  /** Latent height and width the U-Net was trained for. */
  sampleSize: number;
  warnings: string[];
}

export const schedulerClasses = ['DDIMScheduler', 'PNDMScheduler', 'DPMSolverMultistepScheduler', 'EulerDiscreteScheduler'] as const;

const classes: Readonly<Record<string, readonly string[]>> = {
  unet: ['UNet2DConditionModel'],
  vae: ['AutoencoderKL'],
  text_encoder: ['CLIPTextModel'],
  tokenizer: ['CLIPTokenizer', 'CLIPTokenizerFast'],
};
// Named in model_index.json, but without a part in drawing an image.
const ignored = ['safety_checker', 'feature_extractor', 'image_encoder'];

/** Reads everything but the weights; `variant` picks e.g. the fp16 files. */
export function readPipeline(directory: string, variant?: string): Pipeline {
  requireDirectory(directory, 'a pipeline folder in diffusers format');
  const warnings = checkIndex(directory);
  const unet = componentSource(join(directory, 'unet'), 'diffusion_pytorch_model', variant);
  const vae = componentSource(join(directory, 'vae'), 'diffusion_pytorch_model', variant);
  const textEncoder = componentSource(join(directory, 'text_encoder'), 'model', variant);
  const unetConfig = configOf(unet);
  const textConfig = configOf(textEncoder);
  const textFile = configFile(textEncoder);
  const tokenizer = ClipTokenizer.load(join(directory, 'tokenizer'));
  const positions = numberField(textConfig, 'max_position_embeddings', textFile, 77);
  const textWidth = numberField(textConfig, 'hidden_size', textFile, 512);
  if (textConfig['use_attention_mask'] === true) throw invalid(textFile, 'use_attention_mask: expected false, got true (not supported)');
  const crossWidth = unetConfig['cross_attention_dim'];
  if (typeof crossWidth === 'number' && crossWidth !== textWidth) {
    throw invalid(configFile(unet), `cross_attention_dim: expected ${textWidth} (the text encoder's hidden_size), got ${crossWidth}`);
  }
  const vaeScaling = readVaeScaling(vae);
  const channels = numberField(unetConfig, 'in_channels', configFile(unet), 4);
  if (channels !== vaeScaling.latentChannels) {
    throw invalid(configFile(unet), `in_channels: expected ${vaeScaling.latentChannels} (the VAE's latent_channels), got ${channels}`);
  }
  const predicted = numberField(unetConfig, 'out_channels', configFile(unet), 4);
  if (predicted !== channels) throw invalid(configFile(unet), `out_channels: expected ${channels} (its in_channels), got ${predicted}`);
  const addition = unetConfig['addition_embed_type'];
  if (addition !== null && addition !== undefined)
    throw invalid(configFile(unet), `addition_embed_type: expected null in a StableDiffusionPipeline, got ${describe(addition)}`);
  return {
    directory,
    unet,
    vae,
    textEncoder,
    unetConfig,
    vaeScaling,
    scheduler: readScheduler(join(directory, 'scheduler')),
    tokenizer,
    textTokens: Math.min(tokenizer.modelMaxLength, positions),
    textWidth,
    sampleSize: readSampleSize(unetConfig, configFile(unet)),
    warnings,
  };
}

function checkIndex(directory: string): string[] {
  const file = join(directory, 'model_index.json');
  const index = readJsonObject(file);
  const kind = index['_class_name'];
  if (kind !== 'StableDiffusionPipeline') throw invalid(file, `_class_name: expected StableDiffusionPipeline, got ${describe(kind)}`);
  for (const [component, expected] of Object.entries(classes)) {
    const entry = index[component];
    const name = Array.isArray(entry) ? entry[1] : undefined;
    if (typeof name !== 'string' || !expected.includes(name))
      throw invalid(file, `${component}: expected ${expected.join(' or ')}, got ${describe(entry)}`);
  }
  if (index['force_zeros_for_empty_prompt'] === true)
    throw invalid(file, 'force_zeros_for_empty_prompt: expected false, got true (not supported)');
  const present = (value: unknown): boolean => Array.isArray(value) && value.some((part) => part !== null);
  return ignored.filter((component) => present(index[component])).map((component) => `${file}: ${component} is not used`);
}

export function configFile(source: ModelSourceDto): string {
  return join(source.label, 'config.json');
}

export function configOf(source: ModelSourceDto): JsonObject {
  const config = parseJson(source.config, configFile(source));
  if (!isObject(config)) throw invalid(configFile(source), `expected a JSON object, got ${describe(config)}`);
  return config;
}

export function readVaeScaling(vae: ModelSourceDto): VaeScaling {
  const config = configOf(vae);
  const file = configFile(vae);
  for (const key of ['latents_mean', 'latents_std']) {
    if (config[key] !== null && config[key] !== undefined)
      throw invalid(file, `${key}: expected null, got ${describe(config[key])} (not supported)`);
  }
  const blocks = config['block_out_channels'];
  if (!Array.isArray(blocks) || blocks.length === 0)
    throw invalid(file, `block_out_channels: expected a list of numbers, got ${describe(blocks)}`);
  return {
    scalingFactor: numberField(config, 'scaling_factor', file, 0.18215),
    shiftFactor: numberField(config, 'shift_factor', file, 0),
    scale: 2 ** (blocks.length - 1),
    latentChannels: numberField(config, 'latent_channels', file, 4),
  };
}

function readSampleSize(config: JsonObject, file: string): number {
  const size = config['sample_size'];
  if (Array.isArray(size)) {
    if (size.length === 2 && typeof size[0] === 'number' && size[0] === size[1]) return size[0];
    throw invalid(file, `sample_size: expected a number, got ${describe(size)}`);
  }
  return numberField(config, 'sample_size', file);
}

/** The scheduler's folder (or its file). */
export function readScheduler(directory: string): JsonObject {
  const file = join(directory, 'scheduler_config.json');
  const config = readJsonObject(file);
  checkSchedulerClass(stringField(config, '_class_name', file), file);
  return config;
}

export function checkSchedulerClass(name: string, where: string): void {
  if (!(schedulerClasses as readonly string[]).includes(name)) {
    throw invalid(where, `_class_name: expected ${schedulerClasses.join(', ')}, got ${JSON.stringify(name)}`);
  }
}

/** The config that sampling uses: the pipeline's, another class if named, then overrides; as the addon reads it. */
export function resolveScheduler(base: JsonObject, className: string, overridesJson: string): string {
  const overrides = overridesJson === '' ? {} : parseJson(overridesJson, 'scheduler_overrides_json');
  if (!isObject(overrides)) throw invalid('scheduler_overrides_json', `expected a JSON object, got ${describe(overrides)}`);
  if (className !== '') checkSchedulerClass(className, 'scheduler');
  if (className === '' || className === base['_class_name']) return stringifyJson({ ...base, ...overrides });
  // DDIM was made for pixels and clips to [-1, 1] unless told; a config of another class does not say that latents have no such range.
  const clipping = className === 'DDIMScheduler' && base['clip_sample'] === undefined ? { clip_sample: false } : {};
  return stringifyJson({ ...base, ...clipping, _class_name: className, ...overrides });
}

export function hasPipeline(directory: string): boolean {
  return existsSync(join(directory, 'model_index.json'));
}
