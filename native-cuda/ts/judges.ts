/** Judges of images: CLIP in PickScore's form, and an aesthetic head on CLIP's image embedding. */
import { closeSync, existsSync, openSync, readSync } from 'node:fs';
import { join } from 'node:path';
import { readImagePreprocess } from './clip_preprocess.js';
import type { Engine, RgbImage } from './engine.js';
import { invalid } from './errors.js';
import { describe, isObject, numberField, parseJson } from './json.js';
import type { Aesthetic, Clip } from './models.js';
import type { ImagePreprocessDto, ModelSourceDto, NativePrecision, TensorDto } from './native.js';
import { configFile, configOf } from './pipeline.js';
import { ClipTokenizer } from './tokenizer.js';
import { componentSource, requireDirectory } from './weights.js';

/** A CLIPModel folder: config.json, weights, preprocessor_config.json, tokenizer (in `tokenizer/` or beside them). */
export interface ClipFolder {
  source: ModelSourceDto;
  tokenizer: ClipTokenizer;
  textTokens: number;
  preprocess: ImagePreprocessDto;
}

export function readClipFolder(directory: string): ClipFolder {
  const source = componentSource(directory, 'model');
  const config = configOf(source);
  const [text, vision] = [config['text_config'], config['vision_config']];
  if (!isObject(text)) throw invalid(configFile(source), `text_config: expected an object, got ${describe(text)}`);
  if (!isObject(vision)) throw invalid(configFile(source), `vision_config: expected an object, got ${describe(vision)}`);
  const nested = join(directory, 'tokenizer');
  const tokenizer = ClipTokenizer.load(existsSync(join(nested, 'vocab.json')) ? nested : directory);
  const positions = numberField(text, 'max_position_embeddings', configFile(source), 77);
  const imageSize = numberField(vision, 'image_size', configFile(source), 224);
  return {
    source,
    tokenizer,
    textTokens: Math.min(tokenizer.modelMaxLength, positions),
    preprocess: readImagePreprocess(directory, imageSize),
  };
}

export class ClipJudge {
  private constructor(
    readonly engine: Engine,
    readonly folder: ClipFolder,
    readonly clip: Clip,
  ) {}

  static async load(engine: Engine, directory: string, precision: NativePrecision): Promise<ClipJudge> {
    const folder = readClipFolder(directory);
    return new ClipJudge(engine, folder, await engine.loadClip(folder.source, precision));
  }

  /** (N, P), L2-normalised. */
  async embedImages(images: readonly RgbImage[]): Promise<TensorDto> {
    const { cropHeight, cropWidth } = this.folder.preprocess;
    const size = 3 * cropHeight * cropWidth;
    const data = new Float32Array(images.length * size);
    images.forEach((image, n) => data.set(this.engine.preprocessImage(image, this.folder.preprocess), n * size));
    return this.clip.imageEmbed({ data, shape: [images.length, 3, cropHeight, cropWidth] });
  }

  embedTexts(texts: readonly string[]): Promise<TensorDto> {
    const ids = Int32Array.from(texts.flatMap((text) => this.folder.tokenizer.encode(text, this.folder.textTokens).ids));
    return this.clip.textEmbed(ids, texts.length);
  }

  /** exp(logit_scale) * cos(image, text), pair by pair. */
  async score(images: TensorDto, texts: readonly string[]): Promise<number[]> {
    const embedded = await this.embedTexts(texts);
    const scale = this.clip.logitScale;
    const width = images.shape[1] ?? 0;
    return texts.map((_, n) => {
      let dot = 0;
      for (let i = n * width; i < (n + 1) * width; i++) dot += (images.data[i] ?? 0) * (embedded.data[i] ?? 0);
      return scale * dot;
    });
  }

  release(): void {
    this.clip.release();
  }
}

/** A folder with the head's model.safetensors; a config.json is optional. */
export async function loadAestheticHead(engine: Engine, directory: string): Promise<Aesthetic> {
  requireDirectory(directory, "an aesthetic head's folder");
  return engine.loadAesthetic(aestheticSource(directory));
}

/** Width of the embedding that a head takes, from the header of its weights, which the engine has checked. */
export function aestheticWidth(directory: string): number {
  const [file = ''] = aestheticSource(directory).weights;
  const descriptor = openSync(file, 'r');
  try {
    const length = Buffer.alloc(8);
    readSync(descriptor, length, 0, 8, 0);
    const text = Buffer.alloc(Number(length.readBigUInt64LE()));
    readSync(descriptor, text, 0, text.length, 8);
    const header = parseJson(text.toString(), file);
    const first = isObject(header) ? header['layers.0.weight'] : undefined;
    const shape = isObject(first) ? first['shape'] : undefined;
    if (!Array.isArray(shape) || typeof shape[1] !== 'number')
      throw invalid(file, `layers.0.weight: expected a matrix, got shape ${describe(shape)}`);
    return shape[1];
  } finally {
    closeSync(descriptor);
  }
}

export function aestheticSource(directory: string): ModelSourceDto {
  const file = join(directory, 'model.safetensors');
  if (!existsSync(file)) throw invalid(directory, 'expected model.safetensors, got no such file');
  return { config: '{}', weights: [file], label: directory };
}
