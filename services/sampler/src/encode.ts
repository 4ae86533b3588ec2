/** An encode job: VAE posterior and text embeddings of some rows of the data set, as one shard. */
import { ensureError, fromFloat32, fromInt64, nowMs, recordPhases, SpindleError, writeSafetensors, type ArtifactStore } from '@spindle/kit';
import { describeRef, Manifest, type ImageReader, type ManifestRow } from '@spindle/data';
import type { PreparedImage, TensorDto } from '@spindle/native';
import {
  EncodeResultSchema,
  RejectedRowSchema,
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
import type { LoadedPipeline, SamplerEngine } from './engine.js';
import { invalidIfThrows } from './invalid.js';
import type { Models } from './models.js';

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
  const key = await deps.cache.key(rows, pipelinePath, { resolution, precision, transform }, signal);
  const known = key === null ? null : await deps.cache.find(key);
  if (known !== null) return known;
  const result = await deps.models.withPipeline(pipelinePath, precision, (pipeline) =>
    encodeRows(rows, resolution, transform, pipeline, deps, signal),
  );
  if (key !== null) await deps.cache.keep(key, result);
  return result;
}

async function encodeRows(
  rows: readonly ManifestRow[],
  resolution: number,
  transform: Transform,
  pipeline: LoadedPipeline,
  deps: EncodeDeps,
  signal: AbortSignal,
): Promise<EncodeResult> {
  const latentShape = pipeline.latentShape(resolution, resolution);
  const { pooledWidth } = pipeline;
  const shard = new Shard({
    mean: latentShape,
    logvar: latentShape,
    text: pipeline.textShape,
    // What SDXL's U-Net is told beside the text.
    ...(pooledWidth > 0 ? { pooled: [pooledWidth], time_ids: [timeIdCount] } : {}),
  });
  const rejected: RejectedRow[] = [];
  let truncated = 0;
  const prepared = ahead(rows, readAhead, (row) => prepare(row, resolution, transform, deps, signal));
  for (const { from, to } of batchesOf(rows.length, vaeBatchSize(resolution, resolution))) {
    signal.throwIfAborted();
    const accepted: ManifestRow[] = [];
    /** Per accepted row its views. */
    const images: PreparedImage[][] = [];
    /** The less preferred images of pairs, and whose. */
    const others: { index: number; views: PreparedImage[] }[] = [];
    for (let n = from; n < to; n++) {
      const { value } = await prepared.next();
      if (value === undefined) break;
      if ('reason' in value) {
        rejected.push(value);
        continue;
      }
      images.push(value.image);
      accepted.push(value.row);
      if (value.rejected !== null) others.push({ index: value.row.index, views: value.rejected });
    }
    if (accepted.length === 0) continue;
    const started = nowMs();
    const texts = await pipeline.encodeTexts(
      accepted.map((row) => row.text),
      signal,
    );
    truncated += texts.truncated;
    for (let view = 0; view < transform.views; view++) {
      const seen = images.flatMap((views) => views[view] ?? []);
      const { mean, logvar, phases } = await pipeline.encodeImages(seen, signal);
      recordPhases(phases, started);
      shard.add(
        accepted.map((row) => row.index),
        { mean, logvar, text: texts.text, ...(texts.pooled === null ? {} : { pooled: texts.pooled, time_ids: timeIds(seen) }) },
      );
      if (others.length === 0) continue;
      const other = await pipeline.encodeImages(
        others.flatMap(({ views }) => views[view] ?? []),
        signal,
      );
      shard.addRejected(
        others.map(({ index }) => index),
        other.mean,
        other.logvar,
      );
    }
  }
  return create(EncodeResultSchema, {
    shard: await deps.store.put(shard.bytes(), shardMediaType),
    count: shard.count / transform.views,
    rejected,
    truncatedCaptions: truncated,
  });
}

interface PreparedRow {
  row: ManifestRow;
  /** Its views. */
  image: PreparedImage[];
  rejected: PreparedImage[] | null;
}

/**
 * Only an image's own fault is skipped, with its whole row, so that all trainings see the same rows; a full disk, a store that cannot
 * be reached or a bug is not.
 */
async function prepare(
  row: ManifestRow,
  resolution: number,
  transform: Transform,
  deps: EncodeDeps,
  signal: AbortSignal,
): Promise<PreparedRow | RejectedRow> {
  const framings = Array.from({ length: transform.views }, (_, view) => ({
    filter: transform.filter,
    ...viewOf(transform, row.index, view),
  }));
  let ref = row.image;
  const read = async (): Promise<PreparedImage[]> =>
    deps.engine.readImage(await deps.images.read(ref, signal), describeRef(ref), resolution, framings);
  try {
    const image = await read();
    if (row.rejected === undefined) return { row, image, rejected: null };
    ref = row.rejected;
    return { row, image, rejected: await read() };
  } catch (thrown) {
    const error = ensureError(thrown);
    if (error.code !== 'INVALID_ARGUMENT') throw error;
    return create(RejectedRowSchema, { index: row.index, file: describeRef(ref), reason: error.message });
  }
}

const timeIdCount = 6;

function timeIds(images: readonly PreparedImage[]): TensorDto {
  return { data: Float32Array.from(images.flatMap((image) => image.timeIds)), shape: [images.length, timeIdCount] };
}

class Shard {
  readonly #index: number[] = [];
  readonly #rejectedIndex: number[] = [];
  readonly #columns = new Map<string, TensorDto[]>();

  /** Shape of one row by the name of its tensor. */
  constructor(readonly rowShapes: Readonly<Record<string, readonly number[]>>) {}

  get count(): number {
    return this.#index.length;
  }

  add(index: readonly number[], part: Record<string, TensorDto>): void {
    this.#index.push(...index);
    this.#append(part);
  }

  addRejected(index: readonly number[], mean: TensorDto, logvar: TensorDto): void {
    this.#rejectedIndex.push(...index);
    this.#append({ rejected_mean: mean, rejected_logvar: logvar });
  }

  bytes(): Buffer {
    const rejected = this.#rejectedIndex.length;
    const latentShape = this.rowShapes['mean'] ?? [];
    return writeSafetensors(
      new Map([
        ['index', fromInt64(this.#index)],
        ...Object.entries(this.rowShapes).map(([name, shape]) => [name, this.#join(name, this.count, shape)] as const),
        ...(rejected === 0
          ? []
          : ([
              ['rejected_index', fromInt64(this.#rejectedIndex)],
              ['rejected_mean', this.#join('rejected_mean', rejected, latentShape)],
              ['rejected_logvar', this.#join('rejected_logvar', rejected, latentShape)],
            ] as const)),
      ]),
    );
  }

  #append(columns: Record<string, TensorDto>): void {
    for (const [name, part] of Object.entries(columns)) this.#columns.set(name, [...(this.#columns.get(name) ?? []), part]);
  }

  #join(name: string, rows: number, shape: readonly number[]) {
    const data = new Float32Array(rows * shape.reduce((product, n) => product * n, 1));
    let at = 0;
    for (const part of this.#columns.get(name) ?? []) {
      data.set(part.data, at);
      at += part.data.length;
    }
    return fromFloat32([rows, ...shape], data);
  }
}
