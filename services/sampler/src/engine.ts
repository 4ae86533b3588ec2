/**
 * The sampler's port to the engine, and the adapter that the process runs on; tests bring a port of
 * their own.
 */
import { nearestSize, type ImageSize } from '@spindle/data';
import {
  adaptedUnet,
  choosePrecision,
  componentSource,
  encodePng,
  inspectFolder,
  latentSize,
  readPipeline,
  resizeAndCrop,
  resolveScheduler,
  scaleLatents,
  TextToImage,
  toPixels,
  toRgb,
  type Framing,
  type IntendedSampling,
  type LoraFile,
  type ModelReport,
  type PrecisionChoice,
  type PreparedImage,
  type TextStates,
  useImage,
} from '@spindle/models';
import {
  Unet,
  type Engine,
  type EngineInfoDto,
  type ModelSourceDto,
  type NativePrecision,
  type PhaseDto,
  type RgbImage,
  type TensorDto,
} from '@spindle/native';
import type { ResolvedSampling } from './domain/sampling.js';
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
  /** How often drawing an image calls the model: some schedulers do it twice per step. */
  modelCalls(sampling: ResolvedSampling): number;
  draw(
    unet: LoadedUnet,
    items: readonly DrawItem[],
    sampling: ResolvedSampling,
    /** `real`: (N, C, h, w), the posterior's, where sampling.strength says that it starts there. */
    options: {
      signal: AbortSignal;
      onStep?: (done: number, total: number) => void;
      real?: TensorDto;
    },
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
  /**
   * Decoded, resized and cut to the nearest of `sizes`, once per framing; INVALID_ARGUMENT, naming
   * `where`, when the bytes are no usable image. Large pictures wait for each other.
   */
  readImage(
    bytes: Buffer,
    where: string,
    into: { sizes: readonly ImageSize[]; framings: readonly Framing[] },
    signal: AbortSignal,
  ): Promise<PreparedImage[]>;
  /** Files of a unet folder. */
  unetSource(directory: string): ModelSourceDto;
  /** A U-Net for the pipeline of a folder, with what LoRA files add to it. */
  adaptedUnet(directory: string, unet: ModelSourceDto, lora: readonly LoraFile[]): ModelSourceDto;
  /** With what LoRA files add to its text encoders. */
  loadPipeline(
    directory: string,
    precision: NativePrecision,
    lora: readonly LoraFile[],
  ): Promise<LoadedPipeline>;
  loadUnet(source: ModelSourceDto, precision: NativePrecision): Promise<LoadedUnet>;
  close(): void;
}

export function nativeEngine(engine: Engine): SamplerEngine {
  return {
    info: engine.info,
    choosePrecision: () => choosePrecision(engine),
    inspect: (path, sampling) => inspectFolder(engine, path, sampling),
    readImage: (bytes, where, { sizes, framings }, signal) =>
      useImage(
        bytes,
        where,
        (image) => {
          const size = nearestSize(sizes, image);
          return framings.map((framing) => resizeAndCrop(engine, image, size, framing));
        },
        signal,
      ),
    unetSource: (directory) => componentSource(directory, 'diffusion_pytorch_model'),
    adaptedUnet: (directory, unet, lora) => adaptedUnet(readPipeline(directory), unet, lora),
    loadPipeline: async (directory, precision, lora) =>
      loadedPipeline(engine, await TextToImage.load(engine, directory, precision, lora)),
    loadUnet: (source, precision) => engine.loadUnet(source, precision),
    close: () => engine.close(),
  };
}

function loadedPipeline(engine: Engine, models: TextToImage): LoadedPipeline {
  const { pipeline, textEncoder, vae } = models;
  const { latentChannels, scale } = pipeline.vaeScaling;
  const latentShape = (height: number, width: number): [number, number, number] => {
    const size = latentSize(pipeline, height, width);
    return [latentChannels, size.height, size.width];
  };
  const pixels = async (latents: TensorDto, signal: AbortSignal): Promise<RgbImage[]> => {
    const [count = 0, , height = 0, width = 0] = latents.shape;
    const batch = vaeBatchSize(height * scale, width * scale);
    const decoded = await models.decode(latents, batch, signal);
    return Array.from({ length: count }, (_, n) => toRgb(decoded, n));
  };
  return {
    textShape: [pipeline.textTokens, pipeline.textWidth],
    pooledWidth: pipeline.pooledWidth,
    latentShape,
    encodeTexts: (prompts, signal) => textEncoder.encode(prompts, signal),
    encodeImages: (images, signal) => vae.encode(toPixels(images), signal),
    modelCalls: ({ scheduler, schedulerOverridesJson, steps, strength }) =>
      engine.schedulerTimesteps(
        resolveScheduler(pipeline.scheduler, scheduler, schedulerOverridesJson),
        steps,
        strength ?? null,
      ).length,
    // Texts are embedded here, although encoding has embedded the training ones: on a device the
    // order of sums may follow from the batch's size, and an image must not depend on who embedded
    // its text in which batch.
    draw(unet, items, { scheduler, schedulerOverridesJson, ...sampling }, { real, ...options }) {
      if (!(unet instanceof Unet)) throw new TypeError('draw: expected a U-Net of this engine');
      const [, height, width] = latentShape(sampling.height, sampling.width);
      return models.latents(
        unet,
        items.map((item) => item.prompt),
        items.map((item) => item.seed),
        {
          ...sampling,
          ...options,
          ...(real !== undefined &&
            sampling.strength !== undefined && {
              from: {
                latents: scaleLatents(real, pipeline.vaeScaling),
                strength: sampling.strength,
              },
            }),
          schedulerConfig: resolveScheduler(pipeline.scheduler, scheduler, schedulerOverridesJson),
          batchSize: unetBatchSize(height, width),
        },
      );
    },
    pixels,
    decode: async (latents, signal) =>
      Promise.all((await pixels(latents, signal)).map((image) => encodePng(image))),
    release: () => models.release(),
  };
}
