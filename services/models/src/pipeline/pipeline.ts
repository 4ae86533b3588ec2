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
import { readScheduler } from './scheduler.js';
import { ClipTokenizer } from '../text/tokenizer.js';
import { componentSource, partSource, requireDirectory } from '../files/weights.js';

export interface VaeScaling {
  scalingFactor: number;
  shiftFactor: number;
  /** Pixels per latent pixel. */
  scale: number;
  latentChannels: number;
}

/** A text encoder with its tokenizer. */
export interface TextTower {
  source: ModelSourceDto;
  tokenizer: ClipTokenizer;
  /** Tokens a prompt is padded and cut to. */
  tokens: number;
  width: number;
}

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
  /** Latent height and width the U-Net was trained for. */
  sampleSize: number;
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
    scheduler: readScheduler(join(directory, 'scheduler')),
    textTokens,
    textWidth,
    pooledWidth: readPooledWidth(kind, unet, textTowers),
    zeroEmptyPrompt: zerosEmptyPrompt(kind, index),
    sampleSize: readSampleSize(unetConfig, configFile(unet), defaultSampleSizes[kind]),
    warnings,
  };
}

/** SDXL's pipeline has it so where the key is absent; the others know no such key. */
function zerosEmptyPrompt(kind: PipelineKind, index: JsonObject): boolean {
  const value = index['force_zeros_for_empty_prompt'];
  return kind === 'StableDiffusionXLPipeline' && (value === undefined || value === true);
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
  if (config['use_attention_mask'] === true)
    throw invalid(file, 'use_attention_mask: expected false, got true (not supported)');
  const tokenizer = ClipTokenizer.load(join(modelPath(path).directory, `tokenizer${suffix}`));
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

/** SDXL's pipeline has one of its own where the U-Net states none. */
const defaultSampleSizes: Readonly<Record<PipelineKind, number | undefined>> = {
  StableDiffusionPipeline: undefined,
  StableDiffusionXLPipeline: 128,
};

/** Side of the latents that a U-Net was made for: a number, or two that are equal. */
export function readSampleSize(config: JsonObject, file: string, fallback?: number): number {
  const size = config['sample_size'] ?? fallback;
  const [height, width] = Array.isArray(size) ? size : [size, size];
  const pair = !Array.isArray(size) || size.length === 2;
  if (pair && typeof height === 'number' && height === width) return height;
  throw invalid(
    file,
    `sample_size: expected a number or two that are equal, got ${describe(size)}`,
  );
}

export function hasPipeline(path: string): boolean {
  return existsSync(join(modelPath(path).directory, 'model_index.json'));
}
