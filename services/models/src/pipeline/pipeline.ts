/**
 * Reads a diffusers text-to-image folder: model_index.json, component configs, weights, tokenizer,
 * scheduler.
 */
import { existsSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { invalid, type ModelSourceDto } from '@spindle/native';
import {
  describe,
  numberField,
  parseJson,
  readJsonObject,
  isObject,
  type JsonObject,
} from '../files/json.js';
import { modelPath } from '@spindle/kit';
import { textEncoderKeys } from '../config-keys/clip.js';
import { stableDiffusionKeys, stableDiffusionXlKeys } from '../config-keys/pipeline.js';
import { checkKeys } from '../config-keys/rules.js';
import { unetKeys } from '../config-keys/unet.js';
import { vaeKeys } from '../config-keys/vae.js';
import { checkAnyScheduler, handedTo, readScheduler } from './scheduler.js';
import { ClipTokenizer } from '../text/tokenizer.js';
import { componentSource, partSource, requireDirectory } from '../files/weights.js';

export interface VaeScaling {
  scalingFactor: number;
  shiftFactor: number;
  /** Pixels per latent pixel. */
  scale: number;
  latentChannels: number;
}

export interface LatentSize {
  height: number;
  width: number;
}

/** A text encoder with its tokenizer. */
export interface TextTower {
  source: ModelSourceDto;
  tokenizer: ClipTokenizer;
  /** Tokens a prompt is padded and cut to. */
  tokens: number;
  width: number;
}

/** What a pipeline's folder says, all but the weights. */
export interface Pipeline {
  directory: string;
  kind: PipelineKind;
  unet: ModelSourceDto;
  vae: ModelSourceDto;
  /** One, or SDXL's two: the U-Net sees their hidden states side by side. */
  textTowers: readonly TextTower[];
  unetConfig: JsonObject;
  vaeScaling: VaeScaling;
  /** scheduler_config.json with _class_name. */
  scheduler: JsonObject;
  /** Tokens a prompt is padded and cut to. */
  textTokens: number;
  textWidth: number;
  /**
   * Width of the last tower's projected pooled state, which SDXL's U-Net sees beside sizes and
   * crop; 0 for other models.
   */
  pooledWidth: number;
  /** The empty prompt is all zeros (SDXL) instead of the encoding of "". */
  zeroEmptyPrompt: boolean;
  /** Of the latents that the U-Net was trained for. */
  sampleSize: LatentSize;
  warnings: string[];
}

export const pipelineKinds = ['StableDiffusionPipeline', 'StableDiffusionXLPipeline'] as const;
export type PipelineKind = (typeof pipelineKinds)[number];

const tokenizers = ['CLIPTokenizer', 'CLIPTokenizerFast'];
const common: Readonly<Record<string, readonly string[]>> = {
  unet: ['UNet2DConditionModel'],
  vae: ['AutoencoderKL'],
  text_encoder: ['CLIPTextModel'],
  tokenizer: tokenizers,
};
const classes: Readonly<Record<PipelineKind, Readonly<Record<string, readonly string[]>>>> = {
  StableDiffusionPipeline: common,
  StableDiffusionXLPipeline: {
    ...common,
    text_encoder_2: ['CLIPTextModelWithProjection'],
    tokenizer_2: tokenizers,
  },
};
const indexKeys = {
  StableDiffusionPipeline: stableDiffusionKeys,
  StableDiffusionXLPipeline: stableDiffusionXlKeys,
} as const;
/**
 * Numbers that a text_time embedding takes beside the pooled text: original size, crop, target
 * size.
 */
const timeIdCount = 6;
// Named in model_index.json, but without a part in drawing an image.
const ignored = ['safety_checker', 'feature_extractor', 'image_encoder'];
const checkpointFiles = ['.safetensors', '.ckpt', '.pt', '.pth', '.bin'];

/**
 * Reads everything but the weights. After "@" `path` may name a variant (`modelPath`): the U-Net
 * must have it, other parts without it give their plain files and a warning.
 */
export function readPipeline(path: string): Pipeline {
  const { directory } = modelPath(path);
  refuseSingleFile(directory);
  requireDirectory(directory, 'a pipeline folder in diffusers format');
  const { kind, index, warnings } = checkIndex(directory);
  const warn = (message: string): void => void warnings.push(message);
  const unet = componentSource(join(path, 'unet'), 'diffusion_pytorch_model');
  const vae = partSource(join(path, 'vae'), 'diffusion_pytorch_model', warn);
  const unetConfig = configOf(unet);
  checkKeys(unetConfig, unetKeys, configFile(unet)).forEach(warn);
  checkKeys(configOf(vae), vaeKeys, configFile(vae)).forEach(warn);
  const textTowers = (kind === 'StableDiffusionXLPipeline' ? ['', '_2'] : ['']).map((suffix) =>
    readTower(path, suffix, warn),
  );
  const textTokens = Math.min(...textTowers.map((tower) => tower.tokens));
  const textWidth = textTowers.reduce((sum, tower) => sum + tower.width, 0);
  const crossWidth = unetConfig['cross_attention_dim'] ?? 1280;
  if (typeof crossWidth === 'number' && crossWidth !== textWidth) {
    const whose =
      textTowers.length > 1
        ? "the sum of the text encoders' hidden_size"
        : "the text encoder's hidden_size";
    throw invalid(
      configFile(unet),
      `cross_attention_dim: expected ${textWidth} (${whose}), got ${crossWidth}`,
    );
  }
  const vaeScaling = readVaeScaling(vae);
  const channels = numberField(unetConfig, 'in_channels', configFile(unet), 4);
  if (channels !== vaeScaling.latentChannels) {
    throw invalid(
      configFile(unet),
      `in_channels: expected ${vaeScaling.latentChannels} (the VAE's latent_channels), got ` +
        `${channels}`,
    );
  }
  const predicted = numberField(unetConfig, 'out_channels', configFile(unet), 4);
  if (predicted !== channels)
    throw invalid(
      configFile(unet),
      `out_channels: expected ${channels} (its in_channels), got ${predicted}`,
    );
  return {
    directory,
    kind,
    unet,
    vae,
    textTowers,
    unetConfig,
    vaeScaling,
    scheduler: schedulerOf(directory, kind, index, warn),
    textTokens,
    textWidth,
    pooledWidth: readPooledWidth(kind, unet, textTowers),
    zeroEmptyPrompt: zerosEmptyPrompt(kind, index, join(directory, 'model_index.json')),
    sampleSize: sampleSizeOf(kind, unetConfig, configFile(unet), warn),
    warnings,
  };
}

/** SDXL's pipeline has it so where the key is absent; the others know no such key. */
function zerosEmptyPrompt(kind: PipelineKind, index: JsonObject, file: string): boolean {
  const value = index['force_zeros_for_empty_prompt'];
  if (kind !== 'StableDiffusionXLPipeline') return false;
  if (value !== undefined && value !== null && typeof value !== 'boolean')
    throw invalid(
      file,
      `force_zeros_for_empty_prompt: expected true or false, got ${describe(value)}`,
    );
  return value === undefined || value === true;
}

/** What the pipeline's class makes of the scheduler's file. */
function schedulerOf(
  directory: string,
  kind: PipelineKind,
  index: JsonObject,
  warn: (message: string) => void,
): JsonObject {
  const indexFile = join(directory, 'model_index.json');
  const file = join(directory, 'scheduler', 'scheduler_config.json');
  const own = readScheduler(join(directory, 'scheduler'), warn);
  const entry = index['scheduler'];
  const named = Array.isArray(entry) ? (entry[1] ?? undefined) : undefined;
  if (typeof named !== 'string')
    throw invalid(indexFile, `scheduler: expected the name of a class, got ${describe(entry)}`);
  checkAnyScheduler(named, indexFile, 'scheduler');
  // The index names the class that reads the file.
  const config = named === own['_class_name'] ? own : handedTo(named, own);
  if (config !== own)
    warn(
      `${indexFile}: scheduler: ${named} is taken with the settings of ${file}, which are of ` +
        `${describe(own['_class_name'])}, as diffusers takes it`,
    );
  if (kind !== 'StableDiffusionPipeline') return config;
  // That class sets these two right in old files, absent ones too.
  const corrected: JsonObject = { ...config, steps_offset: 1, clip_sample: false };
  for (const key of ['steps_offset', 'clip_sample'])
    if (own[key] !== undefined && own[key] !== corrected[key])
      warn(
        `${file}: ${key}: ${describe(corrected[key])} is taken for ${describe(own[key])}, as ` +
          `diffusers' ${kind} does`,
      );
  return corrected;
}

/**
 * A checkpoint in one file has no configs and no tokenizer: it is converted once, not guessed at on
 * every load.
 */
function refuseSingleFile(path: string): void {
  if (
    !checkpointFiles.some((extension) => path.endsWith(extension)) ||
    !statSync(path, { throwIfNoEntry: false })?.isFile()
  )
    return;
  throw invalid(
    path,
    'expected a pipeline folder in diffusers format, got a file; convert it with: npx spindle ' +
      `convert ${path} --to FOLDER --tokenizer FOLDER`,
  );
}

function readTower(path: string, suffix: string, warn: (message: string) => void): TextTower {
  const source = partSource(join(path, `text_encoder${suffix}`), 'model', warn);
  const config = configOf(source);
  const file = configFile(source);
  checkKeys(config, textEncoderKeys, file).forEach(warn);
  const tokenizer = ClipTokenizer.load(join(modelPath(path).directory, `tokenizer${suffix}`));
  tokenizer.warnings.forEach(warn);
  return {
    source,
    tokenizer,
    tokens: Math.min(
      tokenizer.modelMaxLength,
      numberField(config, 'max_position_embeddings', file, 77),
    ),
    width: numberField(config, 'hidden_size', file, 512),
  };
}

function readPooledWidth(
  kind: PipelineKind,
  unet: ModelSourceDto,
  towers: readonly TextTower[],
): number {
  const config = configOf(unet);
  const file = configFile(unet);
  const addition = config['addition_embed_type'];
  const last = towers.at(-1);
  if (kind === 'StableDiffusionPipeline' || last === undefined) {
    if (addition !== null && addition !== undefined)
      throw invalid(
        file,
        `addition_embed_type: expected null in a ${kind}, got ${describe(addition)}`,
      );
    return 0;
  }
  if (addition !== 'text_time')
    throw invalid(
      file,
      `addition_embed_type: expected text_time in a ${kind}, got ${describe(addition)}`,
    );
  const textConfig = configOf(last.source);
  const architectures = textConfig['architectures'];
  if (!Array.isArray(architectures) || architectures[0] !== 'CLIPTextModelWithProjection')
    throw invalid(
      configFile(last.source),
      `architectures: expected ["CLIPTextModelWithProjection"], got ${describe(architectures)}`,
    );
  const pooled = numberField(textConfig, 'projection_dim', configFile(last.source), 512);
  const expected = pooled + timeIdCount * numberField(config, 'addition_time_embed_dim', file);
  const got = numberField(config, 'projection_class_embeddings_input_dim', file);
  if (got !== expected) {
    throw invalid(
      file,
      `projection_class_embeddings_input_dim: expected ${expected} (text_encoder_2's ` +
        `projection_dim and ${timeIdCount} times addition_time_embed_dim), got ${got}`,
    );
  }
  return pooled;
}

function checkIndex(directory: string): {
  kind: PipelineKind;
  index: JsonObject;
  warnings: string[];
} {
  const file = join(directory, 'model_index.json');
  const index = readJsonObject(file);
  const kind = pipelineKinds.find((name) => name === index['_class_name']);
  if (kind === undefined)
    throw invalid(
      file,
      `_class_name: expected ${pipelineKinds.join(' or ')}, got ${describe(index['_class_name'])}`,
    );
  for (const [component, expected] of Object.entries(classes[kind])) {
    const entry = index[component];
    const name = Array.isArray(entry) ? entry[1] : undefined;
    if (typeof name !== 'string' || !expected.includes(name))
      throw invalid(
        file,
        `${component}: expected ${expected.join(' or ')}, got ${describe(entry)}`,
      );
  }
  const present = (value: unknown): boolean =>
    Array.isArray(value) && value.some((part) => part !== null);
  const warnings = ignored
    .filter((component) => present(index[component]))
    .map((component) => `${file}: ${component} is not used`);
  warnings.push(...checkKeys(index, indexKeys[kind], file));
  return { kind, index, warnings };
}

export function configFile(source: ModelSourceDto): string {
  return join(source.label, 'config.json');
}

export function configOf(source: ModelSourceDto): JsonObject {
  const config = parseJson(source.config, configFile(source));
  if (!isObject(config))
    throw invalid(configFile(source), `expected a JSON object, got ${describe(config)}`);
  return config;
}

/** The factors between a VAE's latents and the U-Net's; refuses those we do not compute. */
export function readVaeScaling(vae: ModelSourceDto): VaeScaling {
  const config = configOf(vae);
  const file = configFile(vae);
  for (const key of ['latents_mean', 'latents_std']) {
    if (config[key] !== null && config[key] !== undefined)
      throw invalid(file, `${key}: expected null, got ${describe(config[key])} (not supported)`);
  }
  const blocks = config['block_out_channels'] ?? [64];
  if (!Array.isArray(blocks) || blocks.length === 0)
    throw invalid(file, `block_out_channels: expected a list of numbers, got ${describe(blocks)}`);
  return {
    scalingFactor: numberField(config, 'scaling_factor', file, 0.18215),
    shiftFactor: config['shift_factor'] === null ? 0 : numberField(config, 'shift_factor', file, 0),
    scale: 2 ** (blocks.length - 1),
    latentChannels: numberField(config, 'latent_channels', file, 4),
  };
}

/** SDXL's pipeline has one of its own where the U-Net states none. */
const defaultSampleSizes: Readonly<Record<PipelineKind, number | undefined>> = {
  StableDiffusionPipeline: undefined,
  StableDiffusionXLPipeline: 128,
};

/** Of the latents that a U-Net was made for: a number, or height and width. */
export function readSampleSize(config: JsonObject, file: string, fallback?: number): LatentSize {
  const size = config['sample_size'] ?? fallback;
  const sides = Array.isArray(size) ? size : [size, size];
  const [height, width] = sides;
  if (sides.length === 2 && typeof height === 'number' && typeof width === 'number')
    return { height, width };
  throw invalid(
    file,
    `sample_size: expected a number or two (height and width), got ${describe(size)}`,
  );
}

/** Files of before diffusers 0.9 that say less than 64 are wrong, and its pipeline knows it. */
function sampleSizeOf(
  kind: PipelineKind,
  config: JsonObject,
  file: string,
  warn: (message: string) => void,
): LatentSize {
  const size = readSampleSize(config, file, defaultSampleSizes[kind]);
  const version = config['_diffusers_version'];
  const old = typeof version === 'string' && /^0\.[0-8](\D|$)/.test(version);
  const stated = config['sample_size'];
  if (kind !== 'StableDiffusionPipeline' || !old || typeof stated !== 'number' || stated >= 64)
    return size;
  warn(`${file}: sample_size: 64 is taken for ${stated}, as diffusers' ${kind} does for old files`);
  return { height: 64, width: 64 };
}

export function hasPipeline(path: string): boolean {
  return existsSync(join(modelPath(path).directory, 'model_index.json'));
}
