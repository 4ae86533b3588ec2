/**
 * Text to image: a loaded text encoder and VAE, and any U-Net that fits them: prompts -> embeddings
 * -> latents -> pixels.
 */
import {
  type Engine,
  EngineError,
  invalid,
  toEngineError,
  type ClipText,
  type Unet,
  type Vae,
  type NativePrecision,
  type PhaseDto,
  type TensorDto,
} from '@spindle/native';
import { withAdaptedText, type LoraFile } from './adapters.js';
import { readPipeline, type Pipeline, type VaeScaling } from './pipeline.js';

export interface DrawOptions {
  /** As resolveScheduler returns it. */
  schedulerConfig: string;
  steps: number;
  guidanceScale: number;
  eta: number;
  /** Pixels; 0 takes the pipeline's own size. */
  height: number;
  width: number;
  batchSize: number;
  /**
   * Start from images instead of noise: their latents (N, C, h, w), as the U-Net sees them, noised
   * as far as `strength` says, above 0 to 1.
   */
  from?: { latents: TensorDto; strength: number };
  signal?: AbortSignal;
  onStep?: (done: number, total: number) => void;
}

/** Rows [from, from + count) of a tensor whose first dimension is the batch; shares memory. */
export function rows(tensor: TensorDto, from: number, count: number): TensorDto {
  const [batch = 0, ...rest] = tensor.shape;
  const size = rest.reduce((product, n) => product * n, 1);
  if (from < 0 || count < 0 || from + count > batch)
    throw invalid('rows', `expected a range within ${batch}, got [${from}, ${from + count})`);
  return {
    data: tensor.data.subarray(from * size, (from + count) * size),
    shape: [count, ...rest],
  };
}

/** Tensors of equal rows, one after the other along the first dimension. */
export function concatRows(tensors: readonly TensorDto[]): TensorDto {
  const first = tensors[0];
  if (first === undefined) throw invalid('concatRows', 'expected at least one tensor, got none');
  const data = new Float32Array(tensors.reduce((total, tensor) => total + tensor.data.length, 0));
  let at = 0;
  for (const tensor of tensors) {
    data.set(tensor.data, at);
    at += tensor.data.length;
  }
  return {
    data,
    shape: [
      tensors.reduce((total, tensor) => total + (tensor.shape[0] ?? 0), 0),
      ...first.shape.slice(1),
    ],
  };
}

/** Posterior -> what the U-Net sees. */
export function scaleLatents(latents: TensorDto, vae: VaeScaling): TensorDto {
  return {
    data: latents.data.map((x) => (x - vae.shiftFactor) * vae.scalingFactor),
    shape: latents.shape,
  };
}

export function unscaleLatents(latents: TensorDto, vae: VaeScaling): TensorDto {
  return {
    data: latents.data.map((x) => x / vae.scalingFactor + vae.shiftFactor),
    shape: latents.shape,
  };
}

/** Latent height and width of an image; refuses sizes that the VAE cannot halve evenly. */
export function latentSize(
  pipeline: Pick<Pipeline, 'vaeScaling' | 'sampleSize'>,
  height: number,
  width: number,
): { height: number; width: number } {
  const { scale } = pipeline.vaeScaling;
  const side = (pixels: number, field: 'height' | 'width'): number => {
    if (pixels === 0) return pipeline.sampleSize[field];
    if (!Number.isInteger(pixels) || pixels < scale || pixels % scale !== 0)
      throw invalid(field, `expected a positive multiple of ${scale}, got ${pixels}`);
    return pixels / scale;
  };
  return { height: side(height, 'height'), width: side(width, 'width') };
}

/** Phases of a call that began `offsetMs` after the one they are reported with. */
export function shiftPhases(phases: readonly PhaseDto[], offsetMs: number): PhaseDto[] {
  return phases.map((phase) => ({ ...phase, startMs: phase.startMs + offsetMs }));
}

/** What a U-Net is told of prompts. */
export interface TextStates {
  /** (N, T, D) */
  text: TensorDto;
  /** (N, P) for a model with the text_time embedding (SDXL), null for others. */
  pooled: TensorDto | null;
}

/**
 * The pipeline's text encoders. One gives its last hidden state; SDXL's two give their last but one
 * side by side, and the second's projected pooled state (diffusers'
 * StableDiffusionXLPipeline.encode_prompt).
 */
export class TextEncoder {
  #empty: TextStates | undefined;

  private constructor(
    readonly pipeline: Pick<
      Pipeline,
      'textTowers' | 'textTokens' | 'textWidth' | 'pooledWidth' | 'zeroEmptyPrompt'
    >,
    readonly models: readonly ClipText[],
  ) {}

  static async load(
    engine: Engine,
    pipeline: TextEncoder['pipeline'],
    precision: NativePrecision,
  ): Promise<TextEncoder> {
    const models: ClipText[] = [];
    for (const tower of pipeline.textTowers)
      models.push(await engine.loadClipText(tower.source, precision));
    return new TextEncoder(pipeline, models);
  }

  /** The prompts' states, and the places of those that were cut. */
  async encode(
    prompts: readonly string[],
    signal?: AbortSignal,
  ): Promise<TextStates & { cut: ReadonlySet<number>; phases: PhaseDto[] }> {
    const { textTowers, textTokens, pooledWidth } = this.pipeline;
    const cut = new Set<number>();
    const hidden: TensorDto[] = [];
    const phases: PhaseDto[] = [];
    let pooled: TensorDto | null = null;
    const started = performance.now();
    for (const [n, tower] of textTowers.entries()) {
      const model = this.models[n];
      if (model === undefined)
        throw new EngineError('INTERNAL', `text encoder ${n}: expected a loaded model, got none`);
      const encodings = prompts.map((prompt) => tower.tokenizer.encode(prompt, textTokens));
      encodings.forEach((encoding, i) => encoding.truncated > 0 && cut.add(i));
      const ids = Int32Array.from(encodings.flatMap((encoding) => encoding.ids));
      const began = performance.now() - started;
      const states = await model.encode(ids, prompts.length, signal);
      phases.push(...shiftPhases(states.phases, began));
      hidden.push(pooledWidth > 0 ? states.penultimate : states.lastHiddenState);
      if (pooledWidth > 0) pooled = states.pooled;
    }
    return { text: concatColumns(hidden), pooled, cut, phases };
  }

  /**
   * What the model knows as "no prompt": the encoding of "", or zeros where its pipeline says so.
   */
  async empty(signal?: AbortSignal): Promise<TextStates> {
    const { textTokens, textWidth, pooledWidth, zeroEmptyPrompt } = this.pipeline;
    if (this.#empty !== undefined) return this.#empty;
    if (zeroEmptyPrompt) {
      const zeros = (...shape: number[]): TensorDto => ({
        data: new Float32Array(shape.reduce((product, n) => product * n, 1)),
        shape,
      });
      return (this.#empty = {
        text: zeros(1, textTokens, textWidth),
        pooled: pooledWidth > 0 ? zeros(1, pooledWidth) : null,
      });
    }
    const { text, pooled } = await this.encode([''], signal);
    return (this.#empty = { text, pooled });
  }

  release(): void {
    for (const model of this.models) model.release();
  }
}

/** Tensors (N, T, D1), (N, T, D2), … side by side: (N, T, D1 + D2 + …). */
function concatColumns(tensors: readonly TensorDto[]): TensorDto {
  const [first] = tensors;
  if (first === undefined || tensors.length === 1) return first ?? concatRows(tensors);
  const widths = tensors.map((tensor) => tensor.shape.at(-1) ?? 0);
  const width = widths.reduce((sum, n) => sum + n, 0);
  const rowCount = first.data.length / (widths[0] ?? 1);
  const data = new Float32Array(rowCount * width);
  let at = 0;
  for (const [n, { data: from }] of tensors.entries()) {
    const own = widths[n] ?? 0;
    for (let row = 0; row < rowCount; row++)
      data.set(from.subarray(row * own, (row + 1) * own), row * width + at);
    at += own;
  }
  return { data, shape: [...first.shape.slice(0, -1), width] };
}

/** What drawing starts from; null: noise. */
function imagesOf(from: DrawOptions['from'], count: number, shape: number[]): TensorDto | null {
  if (from === undefined) return null;
  const expected = [count, ...shape].join(', ');
  const got = from.latents.shape.join(', ');
  if (got !== expected) throw invalid('from.latents', `expected shape [${expected}], got [${got}]`);
  return from.latents;
}

/**
 * Original height and width, the crop's top and left, target height and width: what SDXL is told of
 * an image's making.
 */
export type TimeIds = [number, number, number, number, number, number];

/** Of an image that is as it was made: not resized, not cropped. */
export function wholeImage(height: number, width: number): TimeIds {
  return [height, width, 0, 0, height, width];
}

/** A pipeline in memory: prompts to latents, latents to pictures. */
export class TextToImage {
  private constructor(
    readonly pipeline: Pipeline,
    readonly textEncoder: TextEncoder,
    readonly vae: Vae,
  ) {}

  /** `lora`: files whose adapters of text encoders are added. */
  static async load(
    engine: Engine,
    directory: string,
    precision: NativePrecision,
    lora: readonly LoraFile[] = [],
  ): Promise<TextToImage> {
    const pipeline = withAdaptedText(readPipeline(directory), lora);
    const text = await TextEncoder.load(engine, pipeline, precision);
    return new TextToImage(pipeline, text, await engine.loadVae(pipeline.vae, precision));
  }

  /** Latents (N, C, h, w) after the last step; image n depends on prompts[n] and seeds[n] alone. */
  async latents(
    unet: Unet,
    prompts: readonly string[],
    seeds: readonly bigint[],
    options: DrawOptions,
  ): Promise<{ latents: TensorDto; phases: PhaseDto[] }> {
    if (prompts.length !== seeds.length)
      throw new EngineError(
        'INVALID_ARGUMENT',
        `seeds: expected one per prompt (${prompts.length}), got ${seeds.length}`,
      );
    const { signal, onStep } = options;
    const started = performance.now();
    const { text, pooled, phases } = await this.textEncoder.encode(prompts, signal);
    const empty = await this.textEncoder.empty(signal);
    const encoded = performance.now() - started;
    const size = latentSize(this.pipeline, options.height, options.width);
    const { scale } = this.pipeline.vaeScaling;
    const sampled = unet.sample(
      {
        cond: text,
        uncond: empty.text,
        condPooled: pooled,
        uncondPooled: empty.pooled,
        timeIds: pooled === null ? [] : wholeImage(size.height * scale, size.width * scale),
        seeds: [...seeds],
        ...size,
        schedulerConfig: options.schedulerConfig,
        steps: options.steps,
        images: imagesOf(options.from, prompts.length, [
          this.pipeline.vaeScaling.latentChannels,
          size.height,
          size.width,
        ]),
        strength: options.from?.strength ?? 1,
        guidanceScale: options.guidanceScale,
        eta: options.eta,
        batchSize: options.batchSize,
      },
      { ...(signal === undefined ? {} : { signal }), ...(onStep === undefined ? {} : { onStep }) },
    );
    const result = await sampled.catch((thrown: unknown) => {
      const error = toEngineError(thrown);
      if (error.code !== 'DIVERGED') throw error;
      throw new EngineError(
        'DIVERGED',
        `${this.pipeline.directory}: ${error.message}; look at its scheduler's settings ` +
          `(rescale_betas_zero_snr, prediction_type) and at the U-Net's weights`,
        { cause: error },
      );
    });
    return { latents: result.latents, phases: [...phases, ...shiftPhases(result.phases, encoded)] };
  }

  /** Pixels (N, 3, H, W), nominally in [-1, 1]; `batchSize` images at a time. */
  async decode(latents: TensorDto, batchSize: number, signal?: AbortSignal): Promise<TensorDto> {
    const unscaled = unscaleLatents(latents, this.pipeline.vaeScaling);
    const parts: TensorDto[] = [];
    const count = latents.shape[0] ?? 0;
    for (let from = 0; from < count; from += batchSize) {
      const batch = rows(unscaled, from, Math.min(batchSize, count - from));
      const { pixels } = await this.vae.decode(batch, signal);
      // toRgb would draw them black.
      if (!pixels.data.every(Number.isFinite))
        throw new EngineError(
          'DIVERGED',
          `${this.pipeline.directory}: vae: expected finite pixels, got NaN or infinity (a ` +
            'VAE that overflows in half precision needs f32)',
        );
      parts.push(pixels);
    }
    return concatRows(parts);
  }

  release(): void {
    this.textEncoder.release();
    this.vae.release();
  }
}
