/** Rows of a data set through the encoders, in batches of images of one size. */
import { nowMs, recordPhases } from '@spindle/kit';
import { sizeName, type ImageSize, type ManifestRow } from '@spindle/data';
import { rows as tensorRows, type PreparedImage, type TensorDto } from '@spindle/native';
import { vaeBatchSize } from './domain/batches.js';
import type { LoadedPipeline } from './engine.js';
import { latentsOf, type Latents } from './shard.js';

export interface PreparedRow {
  row: ManifestRow;
  /** Its views. */
  image: PreparedImage[];
  rejected: PreparedImage[] | null;
}

export interface Posterior {
  mean: Latents;
  logvar: Latents;
}

export interface EncodedRow {
  index: number;
  size: ImageSize;
  /** View by view. */
  image: Posterior[];
  rejected: Posterior[] | null;
  /** What SDXL's U-Net is told of every view. */
  timeIds: PreparedImage['timeIds'][];
  /** (T, D) */
  text: Float32Array;
  /** (P); null for models that take none. */
  pooled: Float32Array | null;
}

export class RowEncoder {
  readonly encoded: EncodedRow[] = [];
  /** Captions that were cut. */
  truncated = 0;
  /** Prepared rows by the size of their images. */
  readonly #waiting = new Map<string, PreparedRow[]>();

  constructor(
    readonly pipeline: LoadedPipeline,
    readonly signal: AbortSignal,
  ) {}

  /** Encodes a batch as soon as one is full. */
  async add(prepared: PreparedRow): Promise<void> {
    const size = sizeOf(prepared);
    const name = sizeName(size);
    const batch = [...(this.#waiting.get(name) ?? []), prepared];
    const full = batch.length >= vaeBatchSize(size.height, size.width);
    this.#waiting.set(name, full ? [] : batch);
    if (full) await this.#encode(batch);
  }

  /** Encodes what still waits. */
  async finish(): Promise<void> {
    for (const batch of this.#waiting.values()) if (batch.length > 0) await this.#encode(batch);
    this.#waiting.clear();
  }

  async #encode(batch: readonly PreparedRow[]): Promise<void> {
    const { pipeline, signal } = this;
    signal.throwIfAborted();
    const texts = await pipeline.encodeTexts(
      batch.map(({ row }) => row.text),
      signal,
    );
    this.truncated += texts.truncated;
    const images = await this.#posteriors(batch.map(({ image }) => image));
    const pairs = batch.flatMap(({ rejected }) => (rejected === null ? [] : [rejected]));
    const rejected = await this.#posteriors(pairs);
    let pair = 0;
    batch.forEach((prepared, n) => {
      this.encoded.push({
        index: prepared.row.index,
        size: sizeOf(prepared),
        image: images[n] ?? [],
        rejected: prepared.rejected === null ? null : (rejected[pair++] ?? []),
        timeIds: prepared.image.map((view) => view.timeIds),
        text: rowOf(texts.text, n),
        pooled: texts.pooled === null ? null : rowOf(texts.pooled, n),
      });
    });
  }

  /** Of every image its views. */
  async #posteriors(images: readonly PreparedImage[][]): Promise<Posterior[][]> {
    const rows = images.map((): Posterior[] => []);
    for (let view = 0; view < (images[0]?.length ?? 0); view++) {
      const started = nowMs();
      const posterior = await this.pipeline.encodeImages(
        images.flatMap((views) => views[view] ?? []),
        this.signal,
      );
      recordPhases(posterior.phases, started);
      const logvars = latentsOf(posterior.logvar);
      latentsOf(posterior.mean).forEach((mean, n) => {
        const logvar = logvars[n];
        if (logvar !== undefined) rows[n]?.push({ mean, logvar });
      });
    }
    return rows;
  }
}

function sizeOf({ image: [first] }: PreparedRow): ImageSize {
  return { height: first?.height ?? 0, width: first?.width ?? 0 };
}

function rowOf(tensor: TensorDto, n: number): Float32Array {
  return tensorRows(tensor, n, 1).data;
}
