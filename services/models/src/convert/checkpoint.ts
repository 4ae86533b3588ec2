/** A checkpoint in one file (names of the original code) as a diffusers folder. */
import { cpSync, existsSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { EngineError, invalid } from '@spindle/native';
import { readJsonObject, type JsonObject } from '../files/json.js';
import { writeModelJson } from '../files/model-json.js';
import { releaseConfigs, type Release, type ReleaseConfigs } from '../released/configs.js';
import { elements, textShapes, unetShapes, vaeShapes, type Shapes } from '../released/tensors.js';
import { dtypeBytes, writeWeights, type TensorSource } from '@spindle/kit';
import { ClipTokenizer } from '../text/tokenizer.js';
import { bytesOf } from './files.js';
import {
  ldmClipSource,
  ldmUnetSource,
  ldmVaeSource,
  openClipSource,
  type LdmSource,
} from './ldm-names.js';

export type Prediction = 'epsilon' | 'v_prediction';

export interface CheckpointOptions {
  /** Folder with tokenizer.json, or vocab.json and merges.txt; the release's configs are used. */
  tokenizer: string | undefined;
  /** Or: a diffusers folder whose configs, tokenizers and scheduler are taken. */
  like: string | undefined;
  /** What the model predicts, against what its file or the other folder say. */
  prediction: Prediction | undefined;
}

/** What people call them. */
export const families: Readonly<Record<Release, string>> = {
  sd15: 'Stable Diffusion 1.x',
  sd21: 'Stable Diffusion 2.x',
  sdxl: 'Stable Diffusion XL',
};

/** What is in the file beside the pipeline's weights, and known to have no part in drawing. */
const idle = [
  /^model_ema\./,
  /^(betas|alphas_cumprod|alphas_cumprod_prev|sqrt_|log_one_minus|posterior_|logvar$|lvlb_weights|v_posterior)/,
  /^first_stage_model\.(loss|quantize)\./,
  /position_ids$/,
  /\.logit_scale$/,
  /\.attn_mask$/,
  /^denoiser\./,
  /^global_step$/,
  /^(v_pred|ztsnr)$/,
];

/** Which family the names belong to; undefined when they are none's. */
export function detectRelease(names: Iterable<string>): Release | undefined {
  let unet = false;
  let found: Release | undefined;
  for (const name of names) {
    unet ||= name.startsWith('model.diffusion_model.');
    if (name.startsWith('conditioner.embedders.1.model.')) found = 'sdxl';
    else if (name.startsWith('cond_stage_model.model.')) found ??= 'sd21';
    else if (name.startsWith('cond_stage_model.transformer.')) found ??= 'sd15';
  }
  return unet ? found : undefined;
}

export function convertCheckpoint(
  path: string,
  sources: readonly TensorSource[],
  to: string,
  options: CheckpointOptions,
): { release: Release; family: string; unused: string[]; notes: string[] } {
  const byName = new Map(sources.map((source) => [source.name, source]));
  const release = detectRelease(byName.keys());
  if (release === undefined)
    throw invalid(
      path,
      'expected a checkpoint of Stable Diffusion 1.x, 2.x or XL (model.diffusion_model.…, and ' +
        'a text encoder under cond_stage_model or conditioner), got other tensors',
    );
  const { configs, notes } = predicting(
    readConfigs(path, release, { ...options, prediction: predictionOf(byName, options) }),
    byName,
    options,
  );
  const used = new Set<string>();
  const take = (shapes: Shapes, sourceOf: (name: string) => LdmSource): TensorSource[] =>
    [...shapes].map(([name, shape]) => {
      const from = sourceOf(name);
      const found = from.names.find((each) => byName.has(each));
      const source = found === undefined ? undefined : byName.get(found);
      if (source === undefined)
        throw invalid(
          path,
          `expected the tensor ${from.names[0]} (${name} of a ${families[release]} model), ` +
            'got none',
        );
      used.add(source.name);
      return converted(path, name, shape, source, from);
    });
  const unet = take(unetShapes(configs.unet), (name) => ldmUnetSource(name, configs.unet));
  const vae = take(vaeShapes(configs.vae, false), (name) => ldmVaeSource(name, configs.vae));
  const texts = configs.textEncoders.map((config, n) =>
    take(textShapes(config), (name) => textSource(release, n, name)),
  );
  mkdirSync(to, { recursive: true });
  const component = (
    name: string,
    config: JsonObject,
    stem: string,
    tensors: TensorSource[],
  ): void => {
    mkdirSync(join(to, name), { recursive: true });
    // Another folder's are taken as they are written.
    if (options.like === undefined) writeModelJson(join(to, name, 'config.json'), config);
    else cpSync(join(options.like, name, 'config.json'), join(to, name, 'config.json'));
    writeWeights(join(to, name), stem, tensors);
  };
  component('unet', configs.unet, 'diffusion_pytorch_model', unet);
  component('vae', configs.vae, 'diffusion_pytorch_model', vae);
  for (const [n, tensors] of texts.entries()) {
    const suffix = n === 0 ? '' : `_${n + 1}`;
    component(`text_encoder${suffix}`, configs.textEncoders[n] ?? {}, 'model', tensors);
    writeTokenizer(join(to, `tokenizer${suffix}`), suffix, configs.padTokens[n] ?? '!', options);
  }
  mkdirSync(join(to, 'scheduler'), { recursive: true });
  writeModelJson(join(to, 'scheduler', 'scheduler_config.json'), configs.scheduler);
  writeModelJson(join(to, 'model_index.json'), withoutExtras(configs.modelIndex));
  const unused = [...byName.keys()].filter(
    (name) =>
      !used.has(name) &&
      !idle.some((pattern) => pattern.test(name)) &&
      !lastLayer(release, name, configs),
  );
  return { release, family: families[release], unused, notes };
}

/** Asked for, or marked in the file by an empty tensor as ComfyUI and others read it. */
function predictionOf(
  names: ReadonlyMap<string, unknown>,
  { prediction }: CheckpointOptions,
): Prediction | undefined {
  return prediction ?? (names.has('v_pred') ? 'v_prediction' : undefined);
}

/** The configs with a scheduler for what the checkpoint predicts and how its noise ends. */
function predicting(
  configs: ReleaseConfigs,
  names: ReadonlyMap<string, unknown>,
  options: CheckpointOptions,
): { configs: ReleaseConfigs; notes: string[] } {
  const prediction = predictionOf(names, options);
  const notes: string[] = [];
  if (prediction === undefined && !names.has('ztsnr')) return { configs, notes };
  const scheduler: JsonObject = { ...configs.scheduler };
  const modelIndex: JsonObject = { ...configs.modelIndex };
  if (prediction !== undefined) scheduler['prediction_type'] = prediction;
  if (names.has('v_pred'))
    notes.push(
      prediction === 'v_prediction'
        ? 'the checkpoint says (v_pred) that it predicts velocity: prediction_type is v_prediction'
        : `the checkpoint says (v_pred) that it predicts velocity; --prediction ${prediction} ` +
            'is taken',
    );
  if (names.has('ztsnr') && scheduler['prediction_type'] === 'v_prediction') {
    scheduler['rescale_betas_zero_snr'] = true;
    // The last time step is the one that the rescaling is for.
    scheduler['timestep_spacing'] = 'trailing';
    notes.push(
      'the checkpoint says (ztsnr) that its noise has no signal at the end: ' +
        'rescale_betas_zero_snr is true, timestep_spacing trailing',
    );
    if (scheduler['_class_name'] === 'PNDMScheduler') {
      // Which knows no such rescaling.
      scheduler['_class_name'] = 'DDIMScheduler';
      modelIndex['scheduler'] = ['diffusers', 'DDIMScheduler'];
    }
  } else if (names.has('ztsnr'))
    notes.push(
      'the checkpoint says (ztsnr) that its noise has no signal at the end, from which ' +
        'epsilon cannot be told: rescale_betas_zero_snr is left as it is',
    );
  return { configs: { ...configs, scheduler, modelIndex }, notes };
}

/** Where a tensor of the nth text encoder lies. */
export function textSource(release: Release, n: number, name: string): LdmSource {
  if (release === 'sd15') return ldmClipSource(name, 'cond_stage_model.transformer.');
  if (release === 'sd21') return openClipSource(name, 'cond_stage_model.model.');
  return n === 0
    ? ldmClipSource(name, 'conditioner.embedders.0.transformer.')
    : openClipSource(name, 'conditioner.embedders.1.model.');
}

/**
 * SD 2.x reads the states before open_clip's last layer: that layer and the projection have no
 * part.
 */
function lastLayer(release: Release, name: string, configs: ReleaseConfigs): boolean {
  if (release !== 'sd21') return false;
  const layers = configs.textEncoders[0]?.['num_hidden_layers'] as number;
  return (
    name.startsWith(`cond_stage_model.model.transformer.resblocks.${layers}.`) ||
    name === 'cond_stage_model.model.text_projection'
  );
}

function converted(
  path: string,
  name: string,
  shape: readonly number[],
  source: TensorSource,
  from: LdmSource,
): TensorSource {
  const parts = from.part === undefined ? 1 : 3;
  const expected =
    from.transposed === true ? [...shape].reverse() : [(shape[0] ?? 1) * parts, ...shape.slice(1)];
  // 1x1 filters and matrices hold the same numbers.
  if (
    withoutOnes(source.shape).join() !== withoutOnes(expected).join() ||
    elements(source.shape) !== elements(expected)
  )
    throw invalid(
      path,
      `${source.name}: expected the shape [${expected.join(', ')}], got ` +
        `[${source.shape.join(', ')}]`,
    );
  if (from.part === undefined && from.transposed !== true) return { ...source, name, shape };
  const width = dtypeBytes[source.dtype];
  return {
    name,
    dtype: source.dtype,
    shape,
    chunks: () => {
      const bytes = bytesOf(source);
      if (from.part !== undefined)
        return [
          bytes.subarray((bytes.length / 3) * from.part, (bytes.length / 3) * (from.part + 1)),
        ];
      const [to = 1, inner = 1] = shape;
      const turned = Buffer.alloc(bytes.length);
      for (let i = 0; i < to; i++)
        for (let j = 0; j < inner; j++)
          bytes.copy(
            turned,
            (i * inner + j) * width,
            (j * to + i) * width,
            (j * to + i + 1) * width,
          );
      return [turned];
    },
  };
}

function withoutOnes(shape: readonly number[]): number[] {
  return shape.filter((n) => n !== 1);
}

function readConfigs(
  path: string,
  release: Release,
  { tokenizer, like, prediction }: CheckpointOptions,
): ReleaseConfigs {
  if (like !== undefined && tokenizer !== undefined)
    throw new EngineError(
      'INVALID_ARGUMENT',
      `--tokenizer: expected nothing beside --like, which has tokenizers, got ${tokenizer}`,
    );
  if (like !== undefined) return configsLike(like, release);
  if (tokenizer === undefined)
    throw new EngineError(
      'INVALID_ARGUMENT',
      '--tokenizer: expected a folder with tokenizer.json, or vocab.json and merges.txt (or ' +
        '--like with a diffusers folder): the checkpoint has no tokenizer',
    );
  const configs = releaseConfigs(release);
  if (release !== 'sd21') return configs;
  if (prediction === undefined)
    throw new EngineError(
      'INVALID_ARGUMENT',
      '--prediction: expected v_prediction (768-pixel models) or epsilon (512-pixel "base" ' +
        `models), got nothing; ${path} does not say`,
    );
  return prediction === 'v_prediction'
    ? configs
    : {
        ...configs,
        unet: { ...configs.unet, sample_size: 64 },
        vae: { ...configs.vae, sample_size: 512 },
        scheduler: { ...configs.scheduler, prediction_type: prediction },
      };
}

function configsLike(folder: string, release: Release): ReleaseConfigs {
  const read = (...names: string[]): JsonObject => readJsonObject(join(folder, ...names));
  const suffixes = release === 'sdxl' ? ['', '_2'] : [''];
  return {
    modelIndex: read('model_index.json'),
    unet: read('unet', 'config.json'),
    vae: read('vae', 'config.json'),
    textEncoders: suffixes.map((suffix) => read(`text_encoder${suffix}`, 'config.json')),
    scheduler: read('scheduler', 'scheduler_config.json'),
    padTokens: [],
  };
}

const tokenizerFiles = [
  'tokenizer.json',
  'added_tokens.json',
  'vocab.json',
  'merges.txt',
  'special_tokens_map.json',
  'tokenizer_config.json',
];

function writeTokenizer(
  to: string,
  suffix: string,
  padToken: string,
  { tokenizer, like }: CheckpointOptions,
): void {
  const from = like === undefined ? (tokenizer ?? '') : join(like, `tokenizer${suffix}`);
  ClipTokenizer.load(from);
  mkdirSync(to, { recursive: true });
  for (const name of tokenizerFiles)
    if (existsSync(join(from, name))) cpSync(join(from, name), join(to, name));
  if (like !== undefined) return;
  // The releases' tokenizers differ in how they pad.
  const file = join(to, 'tokenizer_config.json');
  writeModelJson(file, {
    tokenizer_class: 'CLIPTokenizer',
    model_max_length: 77,
    ...(existsSync(file) ? readJsonObject(file) : {}),
    pad_token: padToken,
  });
  // Where it is there, it may be the one that decides.
  const map = join(to, 'special_tokens_map.json');
  if (existsSync(map)) writeModelJson(map, { ...readJsonObject(map), pad_token: padToken });
}

/** The converted folder has neither. */
function withoutExtras(index: JsonObject): JsonObject {
  const { safety_checker: _checker, feature_extractor: _extractor, ...rest } = index;
  return rest;
}
