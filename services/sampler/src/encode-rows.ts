/**
 * Rows of a data set through the encoders, in batches of images of one size; what is known of a row
 * already is not computed again.
 */
import { nowMs, recordPhases } from '@spindle/kit';
import { sizeName, type ImageSize, type ManifestRow } from '@spindle/data';
import { rows as tensorRows, type PreparedImage } from '@spindle/models';
import { type TensorDto } from '@spindle/native';
import { vaeBatchSize } from './domain/batches.js';
import type { LoadedPipeline } from './engine.js';
import { latentsOf, type Latents } from './shard.js';

/** Decoded images, view by view. */
export interface DecodedImage {
  views: PreparedImage[];
  rejected: PreparedImage[] | null;
}

export interface Posterior {
  mean: Latents;
  logvar: Latents;
}

export interface EncodedImage {
  size: ImageSize;
  /** View by view. */
  views: Posterior[];
  rejected: Posterior[] | null;
  /** What SDXL's U-Net is told of every view; empty for models that are told nothing. */
  timeIds: readonly (readonly number[])[];
}

export interface EncodedText {
  /** (T, D) */
  text: Float32Array;
  /** (P); null for models that take none. */
  pooled: Float32Array | null;
  /** The caption was longer than the text encoder takes. */
  cut: boolean;
}

export interface PreparedRow {
  row: ManifestRow;
  image: { decoded: DecodedImage } | { encoded: EncodedImage };
  /** Null: not known yet. */
  text: EncodedText | null;
}

export interface EncodedRow {
  row: ManifestRow;
  image: EncodedImage;
  text: EncodedText;
}

export class RowEncoder {
  readonly encoded: EncodedRow[] = [];
  /** Prepared rows by the size of their images. */
  readonly #waiting = new Map<string, PreparedRow[]>();

  constructor(
    readonly pipeline: LoadedPipeline,
    readonly signal: AbortSignal,
  ) {}

  /** Encodes a batch as soon as one is full. */
  async add(prepared: PreparedRow): Promise<void> {
    const { row, image, text } = prepared;
    if ('encoded' in image && text !== null) {
      this.encoded.push({ row, image: image.encoded, text });
      return;
    }
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
    this.signal.throwIfAborted();
    const texts = await this.#texts(
      batch.flatMap(({ row, text }) => (text === null ? [row.text] : [])),
    );
    const decoded = batch.flatMap(({ image }) => ('decoded' in image ? [image.decoded] : []));
    const views = await this.#posteriors(decoded.map((image) => image.views));
    const rejected = await this.#posteriors(
      decoded.flatMap((image) => (image.rejected === null ? [] : [image.rejected])),
    );
    for (const prepared of batch) {
      const { row, image } = prepared;
      const text = prepared.text ?? texts.shift();
      if (text === undefined) continue;
      this.encoded.push({
        row,
        text,
        image:
          'encoded' in image
            ? image.encoded
            : {
                size: sizeOf(prepared),
                views: views.shift() ?? [],
                rejected: image.decoded.rejected === null ? null : (rejected.shift() ?? []),
                timeIds: image.decoded.views.map((view) => view.timeIds),
              },
      });
    }
  }

  async #texts(captions: readonly string[]): Promise<EncodedText[]> {
    if (captions.length === 0) return [];
    const { text, pooled, cut } = await this.pipeline.encodeTexts(captions, this.signal);
    return captions.map((_, n) => ({
      text: rowOf(text, n),
      pooled: pooled === null ? null : rowOf(pooled, n),
      cut: cut.has(n),
    }));
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

function sizeOf({ image }: PreparedRow): ImageSize {
  if ('encoded' in image) return image.encoded.size;
  const [first] = image.decoded.views;
  return { height: first?.height ?? 0, width: first?.width ?? 0 };
}

function rowOf(tensor: TensorDto, n: number): Float32Array {
  return tensorRows(tensor, n, 1).data;
}
