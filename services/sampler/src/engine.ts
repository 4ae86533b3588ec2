/**
 * The sampler's port to the engine, and the adapter that the process runs on; tests bring a port of
 * their own.
 */
import { nearestSize, type ImageSize } from '@spindle/data';
import type { Engine } from '@spindle/native';
import {
  choosePrecision,
  componentSource,
  decodeImage,
  encodePng,
  inspectFolder,
  inspectJudge,
  judgeSpec,
  latentSize,
  resizeAndCrop,
  resolveScheduler,
  TextToImage,
  toPixels,
  toRgb,
  type InspectedJudge,
  type Framing,
  type IntendedSampling,
  type JudgeNames,
  type ModelReport,
  type PrecisionChoice,
  type PreparedImage,
  type TextStates,
} from '@spindle/models';
import {
  Unet,
  type EngineInfoDto,
  type ModelSourceDto,
  type NativePrecision,
  type PhaseDto,
  type RgbImage,
  type TensorDto,
} from '@spindle/native';
import type { Sampling } from './domain/sampling.js';
import { unetBatchSize, vaeBatchSize } from './domain/batches.js';

export interface DrawItem {
  prompt: string;
  seed: bigint;
}

export interface LoadedUnet {
  release(): void;
}

/** A pipeline's text encoder, tokenizer, VAE and scheduler. */
export interface LoadedPipeline {
  /** (C, h, w) of an image of that size in pixels. */
  latentShape(height: number, width: number): [number, number, number];
  /** (T, D) of one prompt. */
  readonly textShape: [number, number];
  /** P of one prompt's pooled state; 0 for models that take none. */
  readonly pooledWidth: number;
  /** `cut`: places of prompts that are longer than the text encoder takes. */
  encodeTexts(
    prompts: readonly string[],
    signal: AbortSignal,
  ): Promise<TextStates & { cut: ReadonlySet<number>; phases: PhaseDto[] }>;
  /** Posterior of images of one size. */
  encodeImages(
    images: readonly RgbImage[],
    signal: AbortSignal,
  ): Promise<{ mean: TensorDto; logvar: TensorDto; phases: PhaseDto[] }>;
  draw(
    unet: LoadedUnet,
    items: readonly DrawItem[],
    sampling: Sampling,
    options: { signal: AbortSignal; onStep?: (done: number, total: number) => void },
  ): Promise<{ latents: TensorDto; phases: PhaseDto[] }>;
  /** One PNG per row of latents. */
  decode(latents: TensorDto, signal: AbortSignal): Promise<Uint8Array[]>;
  /** One image of 8 bits per channel per row of latents. */
  pixels(latents: TensorDto, signal: AbortSignal): Promise<RgbImage[]>;
  release(): void;
}

export interface SamplerEngine {
  readonly info: EngineInfoDto;
  choosePrecision(): Promise<PrecisionChoice>;
  /**
   * Throws INVALID_ARGUMENT for a model that cannot be used, or that cannot draw as `sampling`
   * says.
   */
  inspect(path: string, sampling?: IntendedSampling): ModelReport;
  /** Throws what loading the judge would throw. */
  inspectJudge(judge: JudgeNames): InspectedJudge;
  /**
   * Decoded, resized and cut to the nearest of `sizes`, once per framing; INVALID_ARGUMENT, naming
   * `where`, when the bytes are no usable image.
   */
  readImage(
    bytes: Buffer,
    where: string,
    sizes: readonly ImageSize[],
    framings: readonly Framing[],
  ): Promise<PreparedImage[]>;
  /** Files of a unet folder. */
  unetSource(directory: string): ModelSourceDto;
  loadPipeline(directory: string, precision: NativePrecision): Promise<LoadedPipeline>;
  loadUnet(source: ModelSourceDto, precision: NativePrecision): Promise<LoadedUnet>;
  close(): void;
}

export function nativeEngine(engine: Engine): SamplerEngine {
  return {
    info: engine.info,
    choosePrecision: () => choosePrecision(engine),
    inspect: (path, sampling) => inspectFolder(engine, path, sampling),
    inspectJudge: (judge) => inspectJudge(engine, judgeSpec(judge, 'judge')),
    readImage: async (bytes, where, sizes, framings) => {
      const image = await decodeImage(bytes, where);
      const size = nearestSize(sizes, image);
      return framings.map((framing) => resizeAndCrop(engine, image, size, framing));
    },
    unetSource: (directory) => componentSource(directory, 'diffusion_pytorch_model'),
    loadPipeline: async (directory, precision) =>
      new NativePipeline(await TextToImage.load(engine, directory, precision)),
    loadUnet: (source, precision) => engine.loadUnet(source, precision),
    close: () => engine.close(),
  };
}

class NativePipeline implements LoadedPipeline {
  constructor(readonly models: TextToImage) {}

  get textShape(): [number, number] {
    return [this.models.pipeline.textTokens, this.models.pipeline.textWidth];
  }

  get pooledWidth(): number {
    return this.models.pipeline.pooledWidth;
  }

  latentShape(height: number, width: number): [number, number, number] {
    const size = latentSize(this.models.pipeline, height, width);
    return [this.models.pipeline.vaeScaling.latentChannels, size.height, size.width];
  }

  encodeTexts(
    prompts: readonly string[],
    signal: AbortSignal,
  ): Promise<TextStates & { cut: ReadonlySet<number>; phases: PhaseDto[] }> {
    return this.models.textEncoder.encode(prompts, signal);
  }

  encodeImages(
    images: readonly RgbImage[],
    signal: AbortSignal,
  ): Promise<{ mean: TensorDto; logvar: TensorDto; phases: PhaseDto[] }> {
    return this.models.vae.encode(toPixels(images), signal);
  }

  draw(
    unet: LoadedUnet,
    items: readonly DrawItem[],
    sampling: Sampling,
    options: { signal: AbortSignal; onStep?: (done: number, total: number) => void },
  ): Promise<{ latents: TensorDto; phases: PhaseDto[] }> {
    if (!(unet instanceof Unet)) throw new TypeError('draw: expected a U-Net of this engine');
    const [, height, width] = this.latentShape(sampling.height, sampling.width);
    return this.models.latents(
      unet,
      items.map((item) => item.prompt),
      items.map((item) => item.seed),
      {
        schedulerConfig: resolveScheduler(
          this.models.pipeline.scheduler,
          sampling.scheduler,
          sampling.overridesJson,
        ),
        steps: sampling.steps,
        guidanceScale: sampling.guidanceScale,
        eta: sampling.eta,
        height: sampling.height,
        width: sampling.width,
        batchSize: unetBatchSize(height, width),
        ...options,
      },
    );
  }

  async decode(latents: TensorDto, signal: AbortSignal): Promise<Uint8Array[]> {
    return Promise.all((await this.pixels(latents, signal)).map((image) => encodePng(image)));
  }

  async pixels(latents: TensorDto, signal: AbortSignal): Promise<RgbImage[]> {
    const [count = 0, , height = 0, width = 0] = latents.shape;
    const { scale } = this.models.pipeline.vaeScaling;
    const pixels = await this.models.decode(
      latents,
      vaeBatchSize(height * scale, width * scale),
      signal,
    );
    return Array.from({ length: count }, (_, n) => toRgb(pixels, n));
  }

  release(): void {
    this.models.release();
  }
}
