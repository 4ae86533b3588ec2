/**
 * Judges of images: CLIP in its several uses, aesthetic heads on CLIP's image embedding, and
 * ImageReward.
 */
import { existsSync, readdirSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { cleanCaption } from '../text/caption-cleaning.js';
import { clipKeys, clipTextKeys, clipVisionKeys } from '../config-keys/clip.js';
import { checkKeys } from '../config-keys/rules.js';
import { clipMean, clipStd, findPreprocessConfig, readImagePreprocess } from './clip-preprocess.js';
import {
  type Engine,
  type RgbImage,
  EngineError,
  invalid,
  type Aesthetic,
  type Clip,
  type ImageReward,
  type ImagePreprocessDto,
  type ModelSourceDto,
  type NativePrecision,
  type PreprocessMethod,
  type TensorDto,
} from '@spindle/native';
import {
  describe,
  isObject,
  numberField,
  parseJson,
  readText,
  stringifyJson,
} from '../files/json.js';
import { modelPath } from '@spindle/kit';
import { towerOf } from './clip-towers.js';
import { isOpenClipHeader, openClipSource } from './open-clip.js';
import { configFile, configOf } from '../pipeline/pipeline.js';
import { readSafetensorsHeader } from '@spindle/kit';
import { ClipTokenizer } from '../text/tokenizer.js';
import { hasTokenizer } from '../text/tokenizer-files.js';
import { componentSource, refusePickles, requireDirectory } from '../files/weights.js';
import { WordPieceTokenizer } from '../text/wordpiece.js';

/** Where a CLIP judge finds its tokenizer when its own folder has none. */
export interface TokenizerPlaces {
  /** Named by the user: used whatever lies beside the weights. */
  tokenizer?: string | undefined;
  /** Looked at last, e.g. a Stable Diffusion pipeline's, which has CLIP's vocabulary. */
  fallback?: string | undefined;
}

/**
 * A CLIP model's files: a CLIPModel folder of transformers, or weights in open_clip's layout (the
 * file, or a folder with one).
 */
export interface ClipFolder {
  source: ModelSourceDto;
  layout: 'transformers' | 'open_clip';
  tokenizer: ClipTokenizer;
  textTokens: number;
  preprocess: ImagePreprocessDto;
  embeddingWidth: number;
  /** E.g. "ViT 1280x32, patch 14, 224 px". */
  architecture: string;
  /** What the folder leaves open, and what is taken for it. */
  warnings: string[];
}

export function readClipFolder(path: string, places: TokenizerPlaces = {}): ClipFolder {
  const warnings: string[] = [];
  const warn = (message: string): void => void warnings.push(message);
  const { source, layout } = clipSource(path, warn);
  const directory = layout === 'transformers' ? source.label : dirname(source.weights[0] ?? path);
  const config = configOf(source);
  const file = configFile(source);
  const [text, vision] = [
    towerOf(config, 'text_config', file),
    towerOf(config, 'vision_config', file),
  ];
  checkKeys(config, clipKeys, file).forEach(warn);
  checkKeys(text, clipTextKeys, `${file}: text_config`).forEach(warn);
  checkKeys(vision, clipVisionKeys, `${file}: vision_config`).forEach(warn);
  const tokenizer = loadClipTokenizer(directory, places);
  const positions = numberField(text, 'max_position_embeddings', configFile(source), 77);
  const imageSize = numberField(vision, 'image_size', configFile(source), 224);
  const number = (key: string, fallback: number): number =>
    numberField(vision, key, configFile(source), fallback);
  tokenizer.warnings.forEach(warn);
  // open_clip's files need none: CLIP's numbers are that library's default.
  if (layout === 'transformers' && findPreprocessConfig(directory) === undefined)
    warn(
      `${directory}: no preprocessor_config.json and no processor_config.json; images are ` +
        `normalised with CLIP's mean [${clipMean.join(', ')}] and std [${clipStd.join(', ')}] at ` +
        `${imageSize}x${imageSize}`,
    );
  return {
    source,
    layout,
    tokenizer,
    textTokens: Math.min(tokenizer.modelMaxLength, positions),
    preprocess: readImagePreprocess(directory, imageSize, { layout, warn }),
    embeddingWidth: numberField(config, 'projection_dim', configFile(source), 512),
    architecture:
      `CLIP ViT ${number('hidden_size', 768)}x${number('num_hidden_layers', 12)}, patch ` +
      `${number('patch_size', 32)}, ${imageSize} px`,
    warnings,
  };
}

/** Where a CLIP model's files lie, and in which layout. */
export function clipSource(
  path: string,
  warn: (message: string) => void,
): { source: ModelSourceDto; layout: ClipFolder['layout'] } {
  if (!isFile(path)) {
    const { directory } = modelPath(path);
    requireDirectory(directory, "a CLIP model's folder or safetensors file");
    if (existsSync(join(directory, 'config.json'))) {
      const source = componentSource(path, 'model');
      return { source, layout: 'transformers' };
    }
  }
  return {
    source: openClipSource(
      weightsFile(
        path,
        'open_clip_model.safetensors',
        "a CLIPModel folder (config.json) or a safetensors file in open_clip's layout",
      ),
      warn,
    ),
    layout: 'open_clip',
  };
}

function loadClipTokenizer(directory: string, places: TokenizerPlaces): ClipTokenizer {
  if (places.tokenizer !== undefined) return ClipTokenizer.load(places.tokenizer);
  const found = [
    join(directory, 'tokenizer'),
    directory,
    ...(places.fallback === undefined ? [] : [modelPath(places.fallback).directory]),
  ].find((folder) => hasTokenizer(folder));
  return ClipTokenizer.load(found ?? directory);
}

/**
 * `path` itself when it is a safetensors file; in a folder `preferred`, model.safetensors or the
 * only one there.
 */
export function weightsFile(path: string, preferred: string, expected: string): string {
  if (isFile(path)) {
    if (!path.endsWith('.safetensors')) refusePickles(path);
    return path;
  }
  requireDirectory(path, 'a folder with a safetensors file, or the file');
  const files = readdirSync(path).filter((name) => name.endsWith('.safetensors'));
  const named = [preferred, 'model.safetensors'].find((name) => files.includes(name));
  const file = named ?? (files.length === 1 ? files[0] : undefined);
  if (file !== undefined) return join(path, file);
  for (const name of readdirSync(path))
    if (/\.(pt|pth|bin|ckpt)$/.test(name)) refusePickles(join(path, name));
  throw invalid(
    path,
    `expected ${expected}, got ${files.length === 0 ? 'no such file' : files.sort().join(', ')}`,
  );
}

function isFile(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false })?.isFile() === true;
}

/** A CLIP that compares images with texts, with its tokenizer and preprocessing. */
export class ClipJudge {
  private constructor(
    readonly engine: Engine,
    readonly folder: ClipFolder,
    readonly clip: Clip,
  ) {}

  static async load(
    engine: Engine,
    path: string,
    precision: NativePrecision,
    places: TokenizerPlaces = {},
  ): Promise<ClipJudge> {
    const folder = readClipFolder(path, places);
    return new ClipJudge(engine, folder, await engine.loadClip(folder.source, precision));
  }

  get logitScale(): number {
    return this.clip.logitScale;
  }

  /** (N, P), L2-normalised. */
  async embedImages(images: readonly RgbImage[], method?: PreprocessMethod): Promise<TensorDto> {
    return this.clip.imageEmbed(preprocess(this.engine, images, this.folder.preprocess, method));
  }

  embedTexts(texts: readonly string[]): Promise<TensorDto> {
    const { tokenizer, textTokens, layout } = this.folder;
    // transformers' tokenizer does none of this.
    const clean = layout === 'open_clip' ? cleanCaption : (text: string): string => text;
    const ids = Int32Array.from(
      texts.flatMap((text) => tokenizer.encode(clean(text), textTokens).ids),
    );
    return this.clip.textEmbed(ids, texts.length);
  }

  /** cos(image, text), pair by pair. */
  async cosines(images: TensorDto, texts: readonly string[]): Promise<number[]> {
    const embedded = await this.embedTexts(texts);
    const width = images.shape[1] ?? 0;
    return texts.map((_, n) => {
      let dot = 0;
      for (let i = n * width; i < (n + 1) * width; i++)
        dot += (images.data[i] ?? 0) * (embedded.data[i] ?? 0);
      return dot;
    });
  }

  /** exp(logit_scale) * cos(image, text), pair by pair. */
  async score(images: TensorDto, texts: readonly string[]): Promise<number[]> {
    const scale = this.clip.logitScale;
    return (await this.cosines(images, texts)).map((cosine) => scale * cosine);
  }

  release(): void {
    this.clip.release();
  }
}

/** (N, 3, size, size). The tensor methods know one size only: the model's. */
function preprocess(
  engine: Engine,
  images: readonly RgbImage[],
  own: ImagePreprocessDto,
  method = own.method,
): TensorDto {
  const tensor = method === 'tensor' || method === 'tensor_antialias';
  const spec = { ...own, method, ...(tensor && { resize: own.cropHeight }) };
  const size = 3 * spec.cropHeight * spec.cropWidth;
  const data = new Float32Array(images.length * size);
  images.forEach((image, n) => data.set(engine.preprocessImage(image, spec), n * size));
  return { data, shape: [images.length, 3, spec.cropHeight, spec.cropWidth] };
}

/** Tokens that ImageReward's prompts are padded and cut to. */
const imageRewardTokens = 35;

/**
 * ImageReward's files: a safetensors file with the checkpoint's names, vocab.txt beside it, and a
 * config.json where sizes are not the published ones.
 */
export interface ImageRewardFolder {
  source: ModelSourceDto;
  tokenizer: WordPieceTokenizer;
  preprocess: ImagePreprocessDto;
  mean: number;
  std: number;
}

export function imageRewardWeights(path: string): string {
  return weightsFile(
    path,
    'ImageReward.safetensors',
    'ImageReward.safetensors or a single safetensors file',
  );
}

export function readImageRewardFolder(
  path: string,
  places: TokenizerPlaces = {},
): ImageRewardFolder {
  const file = imageRewardWeights(path);
  const directory = dirname(file);
  const configPath = join(directory, 'config.json');
  const config = existsSync(configPath) ? parseJson(readText(configPath), configPath) : {};
  if (!isObject(config))
    throw invalid(configPath, `expected a JSON object, got ${describe(config)}`);
  const header = readSafetensorsHeader(file).tensors;
  if (!header.has('blip.visual_encoder.cls_token'))
    throw invalid(
      file,
      "expected ImageReward's tensors (blip.visual_encoder.cls_token), got none of that name",
    );
  const vision = isObject(config['vision']) ? config['vision'] : {};
  const size = numberField(vision, 'image_size', configPath, 224);
  const tokenizer = WordPieceTokenizer.load(places.tokenizer ?? directory);
  const words = header.get('blip.text_encoder.embeddings.word_embeddings.weight')?.shape[0];
  if (words !== undefined && tokenizer.size > words)
    throw invalid(
      directory,
      `vocab.txt: expected at most ${words} tokens (the model's), got ${tokenizer.size}`,
    );
  return {
    source: { config: stringifyJson(config), weights: [file], label: file },
    tokenizer,
    preprocess: {
      resize: size,
      cropHeight: size,
      cropWidth: size,
      mean: clipMean,
      std: clipStd,
      method: 'torchvision',
      filter: 'bicubic',
      rescale: 1 / 255,
    },
    mean: numberField(config, 'mean', configPath, 0.16717362830052426),
    std: numberField(config, 'std', configPath, 1.0333394966054072),
  };
}

/** ImageReward: one number per image and text, from BLIP and a head. */
export class ImageRewardJudge {
  private constructor(
    readonly engine: Engine,
    readonly folder: ImageRewardFolder,
    readonly model: ImageReward,
  ) {}

  static async load(
    engine: Engine,
    path: string,
    precision: NativePrecision,
    places: TokenizerPlaces = {},
  ): Promise<ImageRewardJudge> {
    const folder = readImageRewardFolder(path, places);
    return new ImageRewardJudge(
      engine,
      folder,
      await engine.loadImageReward(folder.source, precision),
    );
  }

  async score(
    images: readonly RgbImage[],
    texts: readonly string[],
    method?: PreprocessMethod,
  ): Promise<Float32Array> {
    const { ids, mask } = this.folder.tokenizer.encode(texts, imageRewardTokens);
    return this.model.score(
      preprocess(this.engine, images, this.folder.preprocess, method),
      ids,
      mask,
    );
  }

  release(): void {
    this.model.release();
  }
}

/** A folder with the head's model.safetensors, or the file. */
export async function loadAestheticHead(engine: Engine, path: string): Promise<Aesthetic> {
  return engine.loadAesthetic(aestheticSource(path));
}

export interface AestheticShape {
  /** Of the embedding that the head takes. */
  width: number;
  /** LAION's v1 is a single linear layer, v2 has five. */
  version: 'v1' | 'v2';
}

/** From the header of its weights, which the engine has checked. */
export function aestheticShape(path: string): AestheticShape {
  const [file = ''] = aestheticSource(path).weights;
  const header = readSafetensorsHeader(file).tensors;
  const shape = (header.get('layers.0.weight') ?? header.get('weight'))?.shape;
  if (shape?.[1] === undefined)
    throw invalid(
      file,
      'layers.0.weight: expected a matrix, got ' +
        (shape ? `shape ${describe(shape)}` : 'no such tensor'),
    );
  return { width: shape[1], version: shape[0] === 1 ? 'v1' : 'v2' };
}

/** The files of LAION's aesthetic head below a path. */
export function aestheticSource(path: string): ModelSourceDto {
  const file = weightsFile(
    path,
    'model.safetensors',
    "an aesthetic head's model.safetensors or a single safetensors file",
  );
  return { config: '{}', weights: [file], label: path };
}

/** What a lone safetensors file holds, from its tensors' names. */
export function judgeOfFile(file: string): 'open_clip' | 'image_reward' | 'aesthetic' {
  const header = readSafetensorsHeader(file).tensors;
  if (isOpenClipHeader(header)) return 'open_clip';
  if (header.has('blip.visual_encoder.cls_token')) return 'image_reward';
  if (header.has('layers.0.weight') || header.has('weight')) return 'aesthetic';
  throw new EngineError(
    'INVALID_ARGUMENT',
    `${file}: expected a judge's tensors (visual.conv1.weight, blip.visual_encoder.cls_token, ` +
      'layers.0.weight or weight), got none of them',
  );
}
