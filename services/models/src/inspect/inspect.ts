/**
 * Says what a model folder is and checks its tensors' names and shapes without loading the weights.
 */
import { existsSync } from 'node:fs';
import { basename, join } from 'node:path';
import { type Engine, invalid, toEngineError } from '@spindle/native';
import {
  describe,
  numberField,
  parseJson,
  readJsonObject,
  stringField,
  type JsonObject,
} from '../files/json.js';
import { textEncoderKeys } from '../config-keys/clip.js';
import { checkKeys } from '../config-keys/rules.js';
import { unetKeys } from '../config-keys/unet.js';
import { vaeKeys } from '../config-keys/vae.js';
import { aestheticShape, aestheticSource, judgeOfFile, readClipFolder } from '../judges/judges.js';
import { modelPath, readSafetensorsHeader } from '@spindle/kit';
import { openClipSource } from '../judges/open-clip.js';
import {
  configFile,
  configOf,
  hasPipeline,
  readPipeline,
  readSampleSize,
  readVaeScaling,
  type LatentSize,
} from '../pipeline/pipeline.js';
import { resolveScheduler } from '../pipeline/scheduler.js';
import { componentSource, requireDirectory } from '../files/weights.js';

/** What a model folder is, told from its configs and headers. */
export interface ModelReport {
  /**
   * "StableDiffusionPipeline", "StableDiffusionXLPipeline", "UNet2DConditionModel",
   * "AutoencoderKL", "CLIPTextModel", "CLIPModel", "ImageReward", "AestheticHead".
   */
  kind: string;
  /** Parameters of each component by name. */
  parameters: Record<string, number>;
  latentChannels: number;
  vaeScale: number;
  /**
   * Latent pixels per pixel of the U-Net's coarsest level: latents whose sides are multiples of it
   * go through it evenly.
   */
  unetScale: number;
  /** Side of the latents that a U-Net was made for; 0 where height and width differ. */
  sampleSize: number;
  textTokens: number;
  textWidth: number;
  predictionType: string;
  /** Timesteps of the noise schedule; 0 for what is no pipeline. */
  trainTimesteps: number;
  /** The last of them is noise alone. */
  endsInNoise: boolean;
  scheduler: string;
  /** Width of the image embedding that a CLIP model gives, or that an aesthetic head takes. */
  embeddingWidth: number;
  /** Of a pipeline's U-Net, what LoRA can adapt. */
  linearLayers: string[];
  warnings: string[];
}

/** How images are to be drawn; empty fields mean the pipeline's own. */
export interface IntendedSampling {
  scheduler: string;
  overridesJson: string;
  steps: number;
  eta: number;
}

type Inspector = Pick<Engine, 'inspectModel' | 'schedulerTimesteps'>;

/** As many as any real schedule has. */
const fewSteps = 4;

const nothing: Omit<ModelReport, 'kind' | 'parameters'> = {
  latentChannels: 0,
  vaeScale: 0,
  unetScale: 0,
  sampleSize: 0,
  textTokens: 0,
  textWidth: 0,
  predictionType: '',
  trainTimesteps: 0,
  endsInNoise: false,
  scheduler: '',
  embeddingWidth: 0,
  linearLayers: [],
  warnings: [],
};

/** `path`: a folder, perhaps with a variant (`modelPath`), or a judge's file. */
export function inspectFolder(
  engine: Inspector,
  path: string,
  sampling?: IntendedSampling,
): ModelReport {
  if (path.endsWith('.safetensors')) return inspectFile(engine, path);
  const { directory } = modelPath(path);
  requireDirectory(directory, 'a model folder');
  if (hasPipeline(path)) return inspectPipeline(engine, path, sampling);
  if (!existsSync(join(directory, 'config.json'))) {
    if (!existsSync(join(directory, 'model.safetensors')))
      throw invalid(
        directory,
        'expected model_index.json, config.json or model.safetensors, got none of them',
      );
    return inspectFile(engine, join(directory, 'model.safetensors'));
  }
  return inspectComponent(engine, path);
}

/** A judge's weights by themselves. */
function inspectFile(engine: Inspector, file: string): ModelReport {
  switch (judgeOfFile(file)) {
    case 'aesthetic':
      return {
        ...nothing,
        kind: 'AestheticHead',
        parameters: { head: engine.inspectModel('aesthetic', aestheticSource(file)).parameters },
        embeddingWidth: aestheticShape(file).width,
      };
    case 'open_clip': {
      const source = openClipSource(file);
      const width = configOf(source)['projection_dim'];
      return {
        ...nothing,
        kind: 'CLIPModel',
        parameters: { clip: engine.inspectModel('clip', source).parameters },
        embeddingWidth: typeof width === 'number' ? width : 0,
      };
    }
    case 'image_reward': {
      const source = { config: '{}', weights: [file], label: file };
      return {
        ...nothing,
        kind: 'ImageReward',
        parameters: { image_reward: engine.inspectModel('image_reward', source).parameters },
      };
    }
  }
}

function inspectPipeline(
  engine: Inspector,
  path: string,
  sampling?: IntendedSampling,
): ModelReport {
  const pipeline = readPipeline(path);
  const file = join(pipeline.directory, 'scheduler', 'scheduler_config.json');
  // Another class may stand in for one that we do not sample with, or not with its settings.
  if (sampling === undefined || sampling.scheduler === '')
    checkSchedule(engine, resolveScheduler(pipeline.scheduler, '', '', file), fewSteps, file);
  if (sampling !== undefined) checkSampling(engine, pipeline.scheduler, sampling);
  return {
    ...nothing,
    kind: pipeline.kind,
    parameters: {
      unet: engine.inspectModel('unet', pipeline.unet).parameters,
      vae: engine.inspectModel('vae', pipeline.vae).parameters,
      ...Object.fromEntries(
        pipeline.textTowers.map(({ source }) => [
          basename(source.label),
          engine.inspectModel('clip_text', source).parameters,
        ]),
      ),
    },
    latentChannels: pipeline.vaeScaling.latentChannels,
    vaeScale: pipeline.vaeScaling.scale,
    unetScale: unetScaleOf(pipeline.unetConfig),
    sampleSize: squareSide(pipeline.sampleSize),
    textTokens: pipeline.textTokens,
    textWidth: pipeline.textWidth,
    predictionType: stringField(pipeline.scheduler, 'prediction_type', file, 'epsilon'),
    trainTimesteps: timestepsOf(pipeline.scheduler),
    endsInNoise: pipeline.scheduler['rescale_betas_zero_snr'] === true,
    scheduler: stringField(pipeline.scheduler, '_class_name', file),
    linearLayers: pipeline.unet.weights.flatMap((file) => linearLayersOf(file)),
    warnings: pipeline.warnings,
  };
}

/** Layers whose weight is a matrix, also as a convolution of one pixel. */
function linearLayersOf(file: string): string[] {
  const suffix = '.weight';
  return [...readSafetensorsHeader(file).tensors]
    .filter(([name, { shape }]) => name.endsWith(suffix) && isMatrix(shape))
    .map(([name]) => name.slice(0, -suffix.length))
    .sort();
}

function isMatrix([, , ...kernel]: readonly number[]): boolean {
  return kernel.length === 0 || (kernel.length === 2 && kernel.every((side) => side === 1));
}

function timestepsOf({ num_train_timesteps: count }: JsonObject): number {
  // What the engine takes where the config does not say.
  return typeof count === 'number' ? count : 1000;
}

function squareSide({ height, width }: LatentSize): number {
  return height === width ? height : 0;
}

/** Every level but the last halves the sides. */
function unetScaleOf(config: JsonObject): number {
  const levels = config['block_out_channels'];
  // What the engine takes where the config does not say.
  return 2 ** ((Array.isArray(levels) ? levels.length : 4) - 1);
}

/**
 * The engine refuses what it does not know of a schedule, by name; `where` takes the place of the
 * name it gives the config.
 */
function checkSchedule(engine: Inspector, config: string, steps: number, where: string): void {
  try {
    engine.schedulerTimesteps(config, steps);
  } catch (thrown) {
    const error = toEngineError(thrown);
    if (error.code !== 'INVALID_ARGUMENT') throw error;
    throw invalid(where, error.message.replace(/^(scheduler_config\.json: |\[scheduler\] )/, ''));
  }
}

function checkSampling(
  engine: Inspector,
  base: JsonObject,
  { scheduler, overridesJson, steps, eta }: IntendedSampling,
): void {
  const config = resolveScheduler(base, scheduler, overridesJson);
  const name = stringField(
    parseJson(config, 'scheduler') as JsonObject,
    '_class_name',
    'scheduler',
  );
  checkSchedule(engine, config, steps, name);
  if (eta !== 0 && name !== 'DDIMScheduler')
    throw invalid(name, `eta: expected 0 (only DDIMScheduler takes another), got ${eta}`);
}

function inspectComponent(engine: Inspector, path: string): ModelReport {
  const file = join(modelPath(path).directory, 'config.json');
  const config = readJsonObject(file);
  const architectures = config['architectures'];
  const kind =
    config['_class_name'] ??
    (Array.isArray(architectures) ? architectures[0] : undefined) ??
    (config['model_type'] === 'clip' ? 'CLIPModel' : undefined);
  switch (kind) {
    case 'UNet2DConditionModel': {
      const source = componentSource(path, 'diffusion_pytorch_model');
      const width = config['cross_attention_dim'];
      return {
        ...nothing,
        kind,
        parameters: { unet: engine.inspectModel('unet', source).parameters },
        latentChannels: numberField(config, 'in_channels', file, 4),
        unetScale: unetScaleOf(config),
        sampleSize: squareSide(readSampleSize(config, file, 0)),
        warnings: checkKeys(config, unetKeys, file),
        textWidth: typeof width === 'number' ? width : 0,
      };
    }
    case 'AutoencoderKL': {
      const source = componentSource(path, 'diffusion_pytorch_model');
      const scaling = readVaeScaling(source);
      return {
        ...nothing,
        kind,
        parameters: { vae: engine.inspectModel('vae', source).parameters },
        latentChannels: scaling.latentChannels,
        vaeScale: scaling.scale,
        warnings: checkKeys(config, vaeKeys, file),
      };
    }
    case 'CLIPTextModelWithProjection':
    case 'CLIPTextModel': {
      const source = componentSource(path, 'model');
      const text = configOf(source);
      return {
        ...nothing,
        kind,
        parameters: { text_encoder: engine.inspectModel('clip_text', source).parameters },
        textTokens: numberField(text, 'max_position_embeddings', configFile(source), 77),
        textWidth: numberField(text, 'hidden_size', configFile(source), 512),
        warnings: checkKeys(text, textEncoderKeys, file),
      };
    }
    case 'CLIPModel': {
      const folder = readClipFolder(path);
      return {
        ...nothing,
        kind,
        parameters: { clip: engine.inspectModel('clip', folder.source).parameters },
        textTokens: folder.textTokens,
        embeddingWidth: numberField(config, 'projection_dim', file, 512),
        warnings: folder.warnings,
      };
    }
    default:
      throw invalid(
        file,
        '_class_name: expected UNet2DConditionModel, AutoencoderKL, CLIPTextModel or ' +
          `CLIPModel, got ${describe(kind)}`,
      );
  }
}
