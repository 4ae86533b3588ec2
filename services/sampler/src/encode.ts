/** An encode job: VAE posterior and text embeddings of some rows of the data set, as one shard. */
import { ensureError, fromFloat32, fromInt64, SpindleError, writeSafetensors, type ArtifactStore } from '@spindle/kit';
import { describeRef, Manifest, type ImageReader, type ImageSize, type ManifestRow } from '@spindle/data';
import type { PreparedImage } from '@spindle/native';
import {
  EncodeResultSchema,
  RejectedRowSchema,
  RowSizeSchema,
  type ArtifactRef,
  type EncodeJob,
  type EncodeResult,
  type RejectedRow,
} from '@spindle/proto';
import { create } from '@bufbuild/protobuf';
import { ahead } from './ahead.js';
import { batchesOf, vaeBatchSize } from './domain/batches.js';
import { resolveTransform, viewOf, type Transform } from './domain/transform.js';
import type { EncodeCache } from './encode_cache.js';
import { RowEncoder, type EncodedRow, type Posterior, type PreparedRow } from './encode_rows.js';
import type { LoadedPipeline, SamplerEngine } from './engine.js';
import { invalidIfThrows } from './invalid.js';
import type { Models } from './models.js';
import { concatenated, latentTensors } from './shard.js';

export interface EncodeDeps {
  store: ArtifactStore;
  engine: SamplerEngine;
  models: Models;
  images: ImageReader;
  manifests: Manifests;
  cache: EncodeCache;
}

/** The manifest of the run that jobs come from: where its lines begin is found once. */
export class Manifests {
  #last: { digest: string; manifest: Promise<Manifest> } | undefined;

  constructor(readonly store: ArtifactStore) {}

  get(ref: ArtifactRef): Promise<Manifest> {
    if (this.#last?.digest === ref.digest) return this.#last.manifest;
    const manifest = this.store.localPath(ref).then((file) => Manifest.open(file));
    manifest.catch(() => (this.#last = undefined));
    this.#last = { digest: ref.digest, manifest };
    return manifest;
  }
}

/** Images that are read and decoded while others are encoded. */
export const readAhead = 8;

export const shardMediaType = 'application/safetensors';

export async function encode(job: EncodeJob, runId: string, deps: EncodeDeps, signal: AbortSignal): Promise<EncodeResult> {
  if (job.manifest === undefined) throw new SpindleError('INVALID_ARGUMENT', 'encode.manifest: expected an artifact, got nothing');
  if (job.resolution === 0) throw new SpindleError('INVALID_ARGUMENT', 'encode.resolution: expected a positive number of pixels, got 0');
  const rows = await (await deps.manifests.get(job.manifest)).rows(job.start, job.count);
  const precision = await deps.models.precision(runId, job.precision);
  const transform = invalidIfThrows(() => resolveTransform(job.transform));
  const { resolution, pipelinePath } = job;
  if (job.sizes.some(({ height, width }) => height === 0 || width === 0))
    throw new SpindleError('INVALID_ARGUMENT', 'encode.sizes: expected positive numbers of pixels, got 0');
  const bucketed = job.sizes.length > 0;
  const sizes = (bucketed ? job.sizes : [{ height: resolution, width: resolution }]).map(({ height, width }) => ({ height, width }));
  const settings = { resolution, precision, transform, ...(bucketed && { sizes }) };
  const key = await deps.cache.key(rows, pipelinePath, settings, signal);
  const known = key === null ? null : await deps.cache.find(key);
  if (known !== null) return known;
  const result = await deps.models.withPipeline(pipelinePath, precision, async (pipeline) => {
    // What the VAE cannot halve evenly is no row's fault.
    for (const { height, width } of sizes) pipeline.latentShape(height, width);
    return encodeRows(rows, { resolution, sizes, bucketed, transform }, pipeline, deps, signal);
  });
  if (key !== null) await deps.cache.keep(key, result);
  return result;
}

interface EncodePlan {
  resolution: number;
  /** Sizes that images may have; without buckets the square of the resolution. */
  sizes: readonly ImageSize[];
  bucketed: boolean;
  transform: Transform;
}

async function encodeRows(
  rows: readonly ManifestRow[],
  plan: EncodePlan,
  pipeline: LoadedPipeline,
  deps: EncodeDeps,
  signal: AbortSignal,
): Promise<EncodeResult> {
  const rejected: RejectedRow[] = [];
  const encoder = new RowEncoder(pipeline, signal);
  for await (const prepared of ahead(rows, readAhead, (row) => prepare(row, plan, deps, signal))) {
    if ('reason' in prepared) rejected.push(prepared);
    else await encoder.add(prepared);
  }
  await encoder.finish();
  const { encoded, truncated } = encoder;
  return create(EncodeResultSchema, {
    shard: await deps.store.put(shardOf(rows, encoded, plan, pipeline), shardMediaType),
    count: encoded.length,
    rejected,
    truncatedCaptions: truncated,
    ...(plan.bucketed && {
      sizes: [...encoded].sort((x, y) => x.index - y.index).map(({ index, size }) => create(RowSizeSchema, { index, ...size })),
    }),
  });
}

/**
 * Only an image's own fault is skipped, with its whole row, so that all trainings see the same rows; a full disk, a store that cannot
 * be reached or a bug is not.
 */
async function prepare(
  row: ManifestRow,
  { sizes, transform }: EncodePlan,
  deps: EncodeDeps,
  signal: AbortSignal,
): Promise<PreparedRow | RejectedRow> {
  const framings = Array.from({ length: transform.views }, (_, view) => ({
    filter: transform.filter,
    ...viewOf(transform, row.index, view),
  }));
  let ref = row.image;
  const read = async (into: readonly ImageSize[]): Promise<PreparedImage[]> =>
    deps.engine.readImage(await deps.images.read(ref, signal), describeRef(ref), into, framings);
  try {
    const image = await read(sizes);
    if (row.rejected === undefined) return { row, image, rejected: null };
    ref = row.rejected;
    // Both images of a pair have the size of the preferred one.
    return { row, image, rejected: await read(image.slice(0, 1)) };
  } catch (thrown) {
    const error = ensureError(thrown);
    if (error.code !== 'INVALID_ARGUMENT') throw error;
    return create(RejectedRowSchema, { index: row.index, file: describeRef(ref), reason: error.message });
  }
}

const timeIdCount = 6;

/** Rows in the order of blocks; in a block view by view. */
function shardOf(rows: readonly ManifestRow[], encoded: readonly EncodedRow[], plan: EncodePlan, pipeline: LoadedPipeline): Buffer {
  const { resolution, transform, bucketed } = plan;
  const byIndex = new Map(encoded.map((row) => [row.index, row]));
  const all: EncodedView[] = [];
  const others: EncodedView[] = [];
  for (const { from, to } of batchesOf(rows.length, vaeBatchSize(resolution, resolution))) {
    const block = rows.slice(from, to).flatMap((row) => byIndex.get(row.index) ?? []);
    for (let view = 0; view < transform.views; view++) {
      for (const row of block) {
        const own = row.image[view];
        const other = row.rejected?.[view];
        if (own !== undefined) all.push({ row, view, ...own });
        if (other !== undefined) others.push({ row, view, ...other });
      }
    }
  }
  const rowShape = bucketed ? null : pipeline.latentShape(resolution, resolution);
  const latents = (views: readonly EncodedView[], prefix: '' | 'rejected_') =>
    latentTensors(
      { [`${prefix}mean`]: views.map((view) => view.mean), [`${prefix}logvar`]: views.map((view) => view.logvar) },
      rowShape,
      `${prefix}shape`,
    );
  const perRow = (shape: readonly number[], of: (view: EncodedView) => Float32Array) =>
    fromFloat32([all.length, ...shape], concatenated(all.map(of)));
  return writeSafetensors(
    new Map([
      ['index', fromInt64(all.map(({ row }) => row.index))],
      ...latents(all, ''),
      ['text', perRow(pipeline.textShape, ({ row }) => row.text)],
      ...(pipeline.pooledWidth > 0
        ? ([
            // What SDXL's U-Net is told beside the text.
            ['pooled', perRow([pipeline.pooledWidth], ({ row }) => row.pooled ?? new Float32Array(0))],
            ['time_ids', perRow([timeIdCount], ({ row, view }) => Float32Array.from(row.timeIds[view] ?? []))],
          ] as const)
        : []),
      ...(others.length > 0
        ? ([['rejected_index', fromInt64(others.map(({ row }) => row.index))], ...latents(others, 'rejected_')] as const)
        : []),
    ]),
  );
}

interface EncodedView extends Posterior {
  row: EncodedRow;
  view: number;
}
