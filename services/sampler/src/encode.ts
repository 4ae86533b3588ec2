/** An encode job: VAE posterior and text embeddings of some rows of the data set, as one shard. */
import { ensureError, fromFloat32, fromInt64, SpindleError, writeSafetensors } from '@spindle/kit';
import { type ArtifactStore } from '@spindle/mesh';
import { describeRef, type ImageReader, type ImageSize, type ManifestRow } from '@spindle/data';
import type { Framing, PreparedImage } from '@spindle/models';
import {
  EncodeResultSchema,
  RejectedRowSchema,
  RowSizeSchema,
  type EncodeJob,
  type EncodeResult,
  type RejectedRow,
} from '@spindle/proto';
import { create } from '@bufbuild/protobuf';
import { prefetch } from './prefetch.js';
import { batchesOf, vaeBatchSize } from './domain/batches.js';
import { resolveTransform, viewOf, type Transform } from './domain/transform.js';
import type { EncodeCache } from './encode-cache.js';
import { RowEncoder, type EncodedRow, type Posterior, type PreparedRow } from './encode-rows.js';
import type { LoadedPipeline, SamplerEngine } from './engine.js';
import { invalidIfThrows } from './invalid.js';
import type { Manifests } from './manifests.js';
import type { Models } from './models.js';
import type { RowCache } from './row-cache.js';
import type { IndexedRow, RowKeys } from './row-index.js';
import { concatenated, latentTensors } from './shard.js';

export interface EncodeDeps {
  store: ArtifactStore;
  engine: SamplerEngine;
  models: Models;
  images: ImageReader;
  manifests: Manifests;
  cache: EncodeCache;
  rows: RowCache;
}

/** Images that are read and decoded while others are encoded. */
export const readAhead = 8;

export const shardMediaType = 'application/safetensors';

export async function encode(
  job: EncodeJob,
  runId: string,
  deps: EncodeDeps,
  signal: AbortSignal,
): Promise<EncodeResult> {
  if (job.manifest === undefined)
    throw new SpindleError(
      'INVALID_ARGUMENT',
      'encode.manifest: expected an artifact, got nothing',
    );
  if (job.resolution === 0)
    throw new SpindleError(
      'INVALID_ARGUMENT',
      'encode.resolution: expected a positive number of pixels, got 0',
    );
  const rows = await (await deps.manifests.get(job.manifest)).rows(job.start, job.count);
  const precision = await deps.models.precision(runId, job.precision);
  const transform = invalidIfThrows(() => resolveTransform(job.transform));
  const { resolution, pipelinePath } = job;
  if (job.sizes.some(({ height, width }) => height === 0 || width === 0))
    throw new SpindleError(
      'INVALID_ARGUMENT',
      'encode.sizes: expected positive numbers of pixels, got 0',
    );
  const bucketed = job.sizes.length > 0;
  const sizes = (bucketed ? job.sizes : [{ height: resolution, width: resolution }]).map(
    ({ height, width }) => ({ height, width }),
  );
  const settings = { resolution, precision, transform, ...(bucketed && { sizes }) };
  const folder = { directory: pipelinePath, runId };
  await deps.models.checkPipeline(folder);
  const encoders = await deps.cache.encoders(pipelinePath);
  const facts = encoders === null ? [] : await deps.cache.facts(rows, signal);
  const key = encoders && deps.cache.key(facts, encoders, settings);
  const known = key === null ? null : await deps.cache.find(key);
  if (known !== null) return known;
  const plan: EncodePlan = { resolution, sizes, bucketed, transform, keys: new Map() };
  for (const fact of facts) {
    if (fact === null || encoders === null) continue;
    const framing = { sizes, views: framingsOf(transform, fact.row.index) };
    plan.keys.set(fact.row.index, deps.cache.rowKeys(fact, encoders, precision, framing));
  }
  await deps.rows.refresh(runId);
  const result = await deps.models.withPipeline(folder, precision, async (pipeline) => {
    // What the VAE cannot halve evenly is no row's fault.
    for (const { height, width } of sizes) pipeline.latentShape(height, width);
    return encodeRows(rows, plan, pipeline, deps, signal);
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
  /** By row, of those whose images can be read. */
  keys: Map<number, RowKeys>;
}

/** How a row's images are framed, view by view. */
function framingsOf(transform: Transform, row: number): Framing[] {
  return Array.from({ length: transform.views }, (_, view) => ({
    filter: transform.filter,
    ...viewOf(transform, row, view),
  }));
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
  for await (const prepared of prefetch(rows, readAhead, (row) =>
    prepare(row, plan, pipeline, deps, signal),
  )) {
    if ('reason' in prepared) rejected.push(prepared);
    else await encoder.add(prepared);
  }
  await encoder.finish();
  const { encoded } = encoder;
  const views = inOrder(rows, encoded, plan);
  const shard = await deps.store.put(shardOf(views, plan, pipeline), shardMediaType);
  await deps.rows.keep(shard, indexOf(views, plan));
  return create(EncodeResultSchema, {
    shard,
    count: encoded.length,
    rejected,
    truncatedCaptions: encoded.filter(({ text }) => text.cut).length,
    ...(plan.bucketed && {
      sizes: encoded
        .map(({ row, image: { size } }) => create(RowSizeSchema, { index: row.index, ...size }))
        .sort((x, y) => x.index - y.index),
    }),
  });
}

/**
 * A row as far as it is known, else with its images decoded. Only an image's own fault is skipped,
 * with its whole row, so that all trainings see the same rows; a full disk, a store that cannot be
 * reached or a bug is not.
 */
async function prepare(
  row: ManifestRow,
  { sizes, transform, keys }: EncodePlan,
  pipeline: LoadedPipeline,
  deps: EncodeDeps,
  signal: AbortSignal,
): Promise<PreparedRow | RejectedRow> {
  const framings = framingsOf(transform, row.index);
  const key = keys.get(row.index);
  const sdxl = pipeline.pooledWidth > 0;
  const text = key === undefined ? null : await deps.rows.text(key.text, sdxl);
  const encoded = key === undefined ? null : await deps.rows.image(key.image, sdxl);
  if (encoded !== null) return { row, image: { encoded }, text };
  let ref = row.image;
  const read = async (into: readonly ImageSize[]): Promise<PreparedImage[]> =>
    deps.engine.readImage(
      await deps.images.read(ref, signal),
      describeRef(ref),
      { sizes: into, framings },
      signal,
    );
  try {
    const views = await read(sizes);
    let rejected: PreparedImage[] | null = null;
    if (row.rejected !== undefined) {
      ref = row.rejected;
      // Both images of a pair have the size of the preferred one.
      rejected = await read(views.slice(0, 1));
    }
    return { row, image: { decoded: { views, rejected } }, text };
  } catch (thrown) {
    const error = ensureError(thrown);
    if (error.code !== 'INVALID_ARGUMENT') throw error;
    return create(RejectedRowSchema, {
      index: row.index,
      file: describeRef(ref),
      reason: error.message,
    });
  }
}

const timeIdCount = 6;

interface EncodedView extends Posterior {
  row: EncodedRow;
  view: number;
}

/** A shard's rows, and those of its rejected images. */
interface Views {
  all: EncodedView[];
  others: EncodedView[];
}

/** Rows in the order of blocks; in a block view by view. */
function inOrder(
  rows: readonly ManifestRow[],
  encoded: readonly EncodedRow[],
  { resolution, transform }: EncodePlan,
): Views {
  const byIndex = new Map(encoded.map((each) => [each.row.index, each]));
  const all: EncodedView[] = [];
  const others: EncodedView[] = [];
  for (const { from, to } of batchesOf(rows.length, vaeBatchSize(resolution, resolution))) {
    const block = rows.slice(from, to).flatMap((row) => byIndex.get(row.index) ?? []);
    for (let view = 0; view < transform.views; view++) {
      for (const row of block) {
        const own = row.image.views[view];
        const other = row.image.rejected?.[view];
        if (own !== undefined) all.push({ row, view, ...own });
        if (other !== undefined) others.push({ row, view, ...other });
      }
    }
  }
  return { all, others };
}

/** Where every row's values lie, under the names of what they follow from. */
function indexOf({ all, others }: Views, { keys }: EncodePlan): IndexedRow[] {
  const rows = new Map<number, IndexedRow>();
  all.forEach(({ row: { row, image, text } }, n) => {
    const key = keys.get(row.index);
    if (key === undefined) return;
    const known = rows.get(row.index) ?? {
      ...key,
      views: [],
      rejected: [],
      size: image.size,
      cut: text.cut,
    };
    known.views.push(n);
    rows.set(row.index, known);
  });
  others.forEach(({ row: { row } }, n) => rows.get(row.index)?.rejected.push(n));
  return [...rows.values()];
}

function shardOf(
  { all, others }: Views,
  { resolution, bucketed }: EncodePlan,
  pipeline: LoadedPipeline,
): Buffer {
  const rowShape = bucketed ? null : pipeline.latentShape(resolution, resolution);
  const latents = (views: readonly EncodedView[], prefix: '' | 'rejected_') =>
    latentTensors(
      {
        [`${prefix}mean`]: views.map((view) => view.mean),
        [`${prefix}logvar`]: views.map((view) => view.logvar),
      },
      rowShape,
      `${prefix}shape`,
    );
  const perRow = (shape: readonly number[], of: (view: EncodedView) => Float32Array) =>
    fromFloat32([all.length, ...shape], concatenated(all.map(of)));
  return writeSafetensors(
    new Map([
      ['index', fromInt64(all.map(({ row }) => row.row.index))],
      ...latents(all, ''),
      ['text', perRow(pipeline.textShape, ({ row }) => row.text.text)],
      ...(pipeline.pooledWidth > 0
        ? ([
            // What SDXL's U-Net is told beside the text.
            [
              'pooled',
              perRow([pipeline.pooledWidth], ({ row }) => row.text.pooled ?? new Float32Array(0)),
            ],
            [
              'time_ids',
              perRow([timeIdCount], ({ row, view }) =>
                Float32Array.from(row.image.timeIds[view] ?? []),
              ),
            ],
          ] as const)
        : []),
      ...(others.length > 0
        ? ([
            ['rejected_index', fromInt64(others.map(({ row }) => row.row.index))],
            ...latents(others, 'rejected_'),
          ] as const)
        : []),
    ]),
  );
}
