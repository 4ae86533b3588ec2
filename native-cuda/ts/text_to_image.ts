/** Text to image: a loaded text encoder and VAE, and any U-Net that fits them: prompts -> embeddings -> latents -> pixels. */
import type { Engine } from './engine.js';
import { EngineError, invalid } from './errors.js';
import type { ClipText, Unet, Vae } from './models.js';
import type { NativePrecision, PhaseDto, TensorDto } from './native.js';
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
  signal?: AbortSignal;
  onStep?: (done: number, total: number) => void;
}

/** Rows [from, from + count) of a tensor whose first dimension is the batch; shares memory. */
export function rows(tensor: TensorDto, from: number, count: number): TensorDto {
  const [batch = 0, ...rest] = tensor.shape;
  const size = rest.reduce((product, n) => product * n, 1);
  if (from < 0 || count < 0 || from + count > batch)
    throw invalid('rows', `expected a range within ${batch}, got [${from}, ${from + count})`);
  return { data: tensor.data.subarray(from * size, (from + count) * size), shape: [count, ...rest] };
}

export function concatRows(tensors: readonly TensorDto[]): TensorDto {
  const first = tensors[0];
  if (first === undefined) throw invalid('concatRows', 'expected at least one tensor, got none');
  const data = new Float32Array(tensors.reduce((total, tensor) => total + tensor.data.length, 0));
  let at = 0;
  for (const tensor of tensors) {
    data.set(tensor.data, at);
    at += tensor.data.length;
  }
  return { data, shape: [tensors.reduce((total, tensor) => total + (tensor.shape[0] ?? 0), 0), ...first.shape.slice(1)] };
}

/** Posterior -> what the U-Net sees. */
export function scaleLatents(latents: TensorDto, vae: VaeScaling): TensorDto {
  return { data: latents.data.map((x) => (x - vae.shiftFactor) * vae.scalingFactor), shape: latents.shape };
}

export function unscaleLatents(latents: TensorDto, vae: VaeScaling): TensorDto {
  return { data: latents.data.map((x) => x / vae.scalingFactor + vae.shiftFactor), shape: latents.shape };
}

/** Latent height and width of an image; refuses sizes that the VAE cannot halve evenly. */
export function latentSize(
  pipeline: Pick<Pipeline, 'vaeScaling' | 'sampleSize'>,
  height: number,
  width: number,
): { height: number; width: number } {
  const { scale } = pipeline.vaeScaling;
  const side = (pixels: number, field: string): number => {
    if (pixels === 0) return pipeline.sampleSize;
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

const maxRemembered = 4;

export class TextEncoder {
  readonly #empty = new Map<string, TensorDto>();

  constructor(
    readonly pipeline: Pick<Pipeline, 'tokenizer' | 'textTokens'>,
    readonly model: ClipText,
  ) {}

  /** (N, T, D) of the prompts, and how many of them were cut. */
  async encode(prompts: readonly string[], signal?: AbortSignal): Promise<{ text: TensorDto; truncated: number; phases: PhaseDto[] }> {
    const { tokenizer, textTokens } = this.pipeline;
    const encodings = prompts.map((prompt) => tokenizer.encode(prompt, textTokens));
    const ids = Int32Array.from(encodings.flatMap((encoding) => encoding.ids));
    const { lastHiddenState, phases } = await this.model.encode(ids, prompts.length, signal);
    return { text: lastHiddenState, truncated: encodings.filter((encoding) => encoding.truncated > 0).length, phases };
  }

  /** (1, T, D) of one prompt that comes again and again, such as the empty one. */
  async remembered(prompt: string, signal?: AbortSignal): Promise<TensorDto> {
    const known = this.#empty.get(prompt);
    if (known !== undefined) return known;
    const { text } = await this.encode([prompt], signal);
    if (this.#empty.size >= maxRemembered) this.#empty.clear();
    this.#empty.set(prompt, text);
    return text;
  }
}

export class TextToImage {
  private constructor(
    readonly pipeline: Pipeline,
    readonly textEncoder: TextEncoder,
    readonly vae: Vae,
  ) {}

  static async load(engine: Engine, directory: string, precision: NativePrecision): Promise<TextToImage> {
    const pipeline = readPipeline(directory);
    const text = await engine.loadClipText(pipeline.textEncoder, precision);
    return new TextToImage(pipeline, new TextEncoder(pipeline, text), await engine.loadVae(pipeline.vae, precision));
  }

  /** Latents (N, C, h, w) after the last step; image n depends on prompts[n] and seeds[n] alone. */
  async latents(
    unet: Unet,
    prompts: readonly string[],
    seeds: readonly bigint[],
    options: DrawOptions,
  ): Promise<{ latents: TensorDto; phases: PhaseDto[] }> {
    if (prompts.length !== seeds.length)
      throw new EngineError('INVALID_ARGUMENT', `seeds: expected one per prompt (${prompts.length}), got ${seeds.length}`);
    const { signal, onStep } = options;
    const started = performance.now();
    const { text, phases } = await this.textEncoder.encode(prompts, signal);
    const uncond = await this.textEncoder.remembered('', signal);
    const encoded = performance.now() - started;
    const result = await unet.sample(
      {
        cond: text,
        uncond,
        seeds: [...seeds],
        ...latentSize(this.pipeline, options.height, options.width),
        schedulerConfig: options.schedulerConfig,
        steps: options.steps,
        guidanceScale: options.guidanceScale,
        eta: options.eta,
        batchSize: options.batchSize,
      },
      { ...(signal === undefined ? {} : { signal }), ...(onStep === undefined ? {} : { onStep }) },
    );
    return { latents: result.latents, phases: [...phases, ...shiftPhases(result.phases, encoded)] };
  }

  /** Pixels (N, 3, H, W), nominally in [-1, 1]; `batchSize` images at a time. */
  async decode(latents: TensorDto, batchSize: number, signal?: AbortSignal): Promise<TensorDto> {
    const unscaled = unscaleLatents(latents, this.pipeline.vaeScaling);
    const parts: TensorDto[] = [];
    const count = latents.shape[0] ?? 0;
    for (let from = 0; from < count; from += batchSize) {
      parts.push((await this.vae.decode(rows(unscaled, from, Math.min(batchSize, count - from)), signal)).pixels);
    }
    return concatRows(parts);
  }

  release(): void {
    this.textEncoder.model.release();
    this.vae.release();
  }
}
