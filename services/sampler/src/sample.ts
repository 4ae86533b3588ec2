/** A sample job: images drawn by one U-Net, as latents (for training), PNG files (for evaluation), or both. */
import { create } from '@bufbuild/protobuf';
import { fromFloat32, fromInt64, nowMs, recordPhases, SpindleError, writeSafetensors, type ArtifactStore } from '@spindle/kit';
import type { PhaseDto, TensorDto } from '@spindle/native';
import {
  SampleResultSchema,
  type ArtifactRef,
  type PromptItem,
  type Precision,
  type SampleJob,
  type SampleResult,
  type SamplingSettings,
  type UnetRef,
} from '@spindle/proto';
import { resolveSampling } from './domain/sampling.js';
import { resolveTransform, type Transform } from './domain/transform.js';
import { shardMediaType } from './encode.js';
import { invalidIfThrows } from './invalid.js';
import type { Models } from './models.js';
import { reencode, type Reencoded } from './reencode.js';

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
}

export interface DrawOptions {
  wantImages: boolean;
  /** Encode what was drawn again, as pixels. */
  transform?: Transform;
  runId: string;
  signal: AbortSignal;
  onStep?: (done: number, total: number) => void;
}

export async function draw(
  request: DrawRequest,
  deps: SampleDeps,
  options: DrawOptions,
): Promise<{ latents: TensorDto; reencoded: Reencoded | null; images: ArtifactRef[]; phases: PhaseDto[] }> {
  const { signal, onStep } = options;
  if (request.items.length === 0) throw new SpindleError('INVALID_ARGUMENT', 'items: expected at least one prompt, got none');
  const sampling = invalidIfThrows(() => resolveSampling(request.sampling));
  const precision = await deps.models.precision(options.runId, request.precision);
  return deps.models.withPipeline(request.pipelinePath, precision, (pipeline) =>
    deps.models.withUnet(request.unet, request.pipelinePath, precision, async (unet) => {
      const started = nowMs();
      const { latents, phases } = await pipeline.draw(unet, request.items, sampling, {
        signal,
        ...(onStep === undefined ? {} : { onStep }),
      });
      const images: ArtifactRef[] = [];
      if (options.wantImages) {
        const decodeStart = nowMs() - started;
        const files = await pipeline.decode(latents, signal);
        phases.push({ name: 'vae_decode', startMs: decodeStart, durationMs: nowMs() - started - decodeStart });
        for (const file of files) images.push(await deps.store.put(file, 'image/png'));
      }
      const reencodeStart = nowMs() - started;
      const reencoded =
        options.transform === undefined ? null : await reencode(pipeline, latents, request.items, options.transform, signal);
      if (reencoded !== null) phases.push({ name: 'reencode', startMs: reencodeStart, durationMs: nowMs() - started - reencodeStart });
      recordPhases(phases, started);
      return { latents, reencoded, images, phases };
    }),
  );
}

export async function sample(job: SampleJob, runId: string, deps: SampleDeps, signal: AbortSignal): Promise<SampleResult> {
  if (!job.wantLatents && !job.wantImages)
    throw new SpindleError('INVALID_ARGUMENT', 'sample: expected want_latents or want_images, got neither');
  const transform = job.wantLatents && job.pixels !== undefined ? invalidIfThrows(() => resolveTransform(job.pixels)) : undefined;
  const { latents, reencoded, images } = await draw({ ...job, unet: job.unet, sampling: job.sampling }, deps, {
    wantImages: job.wantImages,
    ...(transform && { transform }),
    runId,
    signal,
  });
  const result = create(SampleResultSchema, { images, count: job.items.length });
  if (job.wantLatents) {
    const shard =
      reencoded === null
        ? new Map([
            ['index', fromInt64(job.items.map((item) => item.index))],
            ['latents', fromFloat32(latents.shape, latents.data)],
          ])
        : new Map([
            ['index', fromInt64(reencoded.index)],
            ['mean', fromFloat32(reencoded.mean.shape, reencoded.mean.data)],
            ['logvar', fromFloat32(reencoded.logvar.shape, reencoded.logvar.data)],
          ]);
    result.latents = await deps.store.put(writeSafetensors(shard), shardMediaType);
  }
  return result;
}
