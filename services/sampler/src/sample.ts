/**
 * A sample job: images drawn by one U-Net, as latents (for training), PNG files (for evaluation),
 * or both.
 */
import { existsSync } from 'node:fs';
import { create } from '@bufbuild/protobuf';
import { fromInt64, nowMs, recordPhases, SpindleError, writeSafetensors } from '@spindle/kit';
import { type ArtifactStore } from '@spindle/mesh';
import { loraFile } from '@spindle/models';
import type { PhaseDto, TensorDto } from '@spindle/native';
import {
  SampleResultSchema,
  SamplingSettingsSchema,
  type ArtifactRef,
  type LoraFile,
  type PromptItem,
  type Precision,
  type SampleJob,
  type SampleResult,
  type SamplingSettings,
  type UnetRef,
} from '@spindle/proto';
import { resolveSampling, type ResolvedSampling } from './domain/sampling.js';
import { resolveTransform, type Transform } from './domain/transform.js';
import { shardMediaType } from './encode.js';
import { invalidIfThrows } from './invalid.js';
import type { Models } from './models.js';
import { realImages, type RealImageDeps } from './real-images.js';
import { reencode, type Reencoded } from './reencode.js';
import { itemsOf } from './sample-items.js';
import { realLatents, realOf } from './real-latents.js';
import { latentsOf, latentTensors, type Latents } from './shard.js';

export interface SampleDeps {
  store: ArtifactStore;
  models: Models;
}

export interface DrawRequest {
  unet: UnetRef | undefined;
  pipelinePath: string;
  sampling: SamplingSettings | undefined;
  items: readonly PromptItem[];
  precision: Precision;
  /** On top of the U-Net and the pipeline's text encoders. */
  lora: readonly LoraFile[];
}

export interface DrawOptions {
  wantImages: boolean;
  /** Encode what was drawn again, as pixels. */
  transform?: Transform;
  /** The real images' latents by their row, which drawing starts from where there is a strength. */
  real?: ReadonlyMap<number, Latents>;
  runId: string;
  signal: AbortSignal;
  onStep?: (done: number, total: number) => void;
}

/** Items of one size, and what was drawn for them. */
export interface Drawn {
  items: readonly PromptItem[];
  latents: TensorDto;
  reencoded: Reencoded | null;
}

/** Images are in the items' order. */
export async function draw(
  request: DrawRequest,
  deps: SampleDeps,
  options: DrawOptions,
): Promise<{ drawn: Drawn[]; images: ArtifactRef[]; phases: PhaseDto[] }> {
  const { signal, onStep } = options;
  if (request.items.length === 0)
    throw new SpindleError('INVALID_ARGUMENT', 'items: expected at least one prompt, got none');
  const sampling = invalidIfThrows(() =>
    resolveSampling(request.sampling ?? create(SamplingSettingsSchema)),
  );
  const { real } = options;
  if ((sampling.strength !== undefined) !== (real !== undefined))
    throw new SpindleError(
      'INVALID_ARGUMENT',
      `sampling.strength: expected ${real ? 'one' : 'none'} ${real ? 'with' : 'without'} encoded ` +
        `shards of real images, got ${sampling.strength ?? 'nothing'}`,
    );
  const precision = await deps.models.precision(options.runId, request.precision);
  const lora = request.lora.map(({ path, scale = 1 }) => ({
    path: invalidIfThrows(() => existingLora(path)),
    scale,
  }));
  const folder = { directory: request.pipelinePath, runId: options.runId, lora };
  return deps.models.withPipeline(folder, precision, (pipeline) =>
    deps.models.withUnet(request.unet, folder, precision, async (unet) => {
      const started = nowMs();
      const phases: PhaseDto[] = [];
      const drawn: Drawn[] = [];
      const images = new Map<PromptItem, ArtifactRef>();
      for (const { items, height, width } of bySize(request.items, sampling)) {
        const drawStart = nowMs() - started;
        const { latents, phases: own } = await pipeline.draw(
          unet,
          items,
          { ...sampling, height, width },
          {
            signal,
            ...(onStep === undefined ? {} : { onStep }),
            ...(real && { real: realOf(items, real, pipeline.latentShape(height, width)) }),
          },
        );
        phases.push(...own.map((phase) => ({ ...phase, startMs: phase.startMs + drawStart })));
        if (options.wantImages) {
          const decodeStart = nowMs() - started;
          const files = await pipeline.decode(latents, signal);
          phases.push({
            name: 'vae_decode',
            startMs: decodeStart,
            durationMs: nowMs() - started - decodeStart,
          });
          for (const [n, item] of items.entries()) {
            const file = files[n];
            if (file !== undefined) images.set(item, await deps.store.put(file, 'image/png'));
          }
        }
        const reencodeStart = nowMs() - started;
        const reencoded =
          options.transform === undefined
            ? null
            : await reencode(pipeline, latents, items, options.transform, signal);
        if (reencoded !== null)
          phases.push({
            name: 'reencode',
            startMs: reencodeStart,
            durationMs: nowMs() - started - reencodeStart,
          });
        drawn.push({ items, latents, reencoded });
      }
      recordPhases(phases, started);
      return { drawn, images: request.items.flatMap((item) => images.get(item) ?? []), phases };
    }),
  );
}

function existingLora(path: string): string {
  const file = loraFile(path);
  if (existsSync(file)) return file;
  throw new Error(`${path}: expected a LoRA file, or a folder with one, got no such file`);
}

/** Items that are drawn together; an item without a size has that of the settings. */
function bySize(
  items: readonly PromptItem[],
  sampling: ResolvedSampling,
): { items: PromptItem[]; height: number; width: number }[] {
  const groups = new Map<string, { items: PromptItem[]; height: number; width: number }>();
  for (const item of items) {
    const [height, width] = [item.height || sampling.height, item.width || sampling.width];
    const key = `${height} ${width}`;
    const group = groups.get(key);
    if (group === undefined) groups.set(key, { items: [item], height, width });
    else group.items.push(item);
  }
  return [...groups.values()];
}

/** Draws a job's rows, and puts what it asks for into the store. */
export async function sample(
  job: SampleJob,
  runId: string,
  deps: SampleDeps & RealImageDeps,
  signal: AbortSignal,
): Promise<SampleResult> {
  if (!job.wantLatents && !job.wantImages)
    throw new SpindleError(
      'INVALID_ARGUMENT',
      'sample: expected want_latents or want_images, got neither',
    );
  const transform =
    job.wantLatents && job.pixels !== undefined
      ? invalidIfThrows(() => resolveTransform(job.pixels))
      : undefined;
  const items = await itemsOf(job, deps.manifests);
  const real =
    job.encodedShards.length > 0 ? await realLatents(job.encodedShards, items, deps.store) : null;
  const { drawn, images } = await draw(
    { ...job, unet: job.unet, sampling: job.sampling, items },
    deps,
    {
      wantImages: job.wantImages,
      ...(transform && { transform }),
      ...(real && { real }),
      runId,
      signal,
    },
  );
  const result = create(SampleResultSchema, { images, count: items.length });
  result.realImages = await realImages(job, items, deps, signal);
  if (job.real) result.captions = items.map(({ prompt }) => prompt);
  if (job.wantLatents) result.latents = await deps.store.put(shardOf(items, drawn), shardMediaType);
  return result;
}

function shardOf(items: readonly PromptItem[], drawn: readonly Drawn[]): Buffer {
  const reencoded = drawn.flatMap((group) => group.reencoded ?? []);
  const index =
    reencoded.length > 0
      ? reencoded.flatMap((group) => group.index)
      : drawn.flatMap(({ items }) => items.map((item) => item.index));
  const columns =
    reencoded.length > 0
      ? {
          mean: reencoded.flatMap(({ mean }) => latentsOf(mean)),
          logvar: reencoded.flatMap(({ logvar }) => latentsOf(logvar)),
        }
      : { latents: drawn.flatMap(({ latents }) => latentsOf(latents)) };
  const sized = items.some((item) => item.height > 0 || item.width > 0);
  const rowShape = sized ? null : (drawn[0]?.latents.shape.slice(1) ?? []);
  return writeSafetensors(
    new Map([['index', fromInt64(index)], ...latentTensors(columns, rowShape, 'shape')]),
  );
}
