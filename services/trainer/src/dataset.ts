/** Real and generated latents and captions, matched by data set index, as the engine takes them. */
import { SpindleError, type ArtifactStore } from '@spindle/kit';
import type { TensorDto, TrainBatchDto } from '@spindle/native';
import type { ArtifactRef } from '@spindle/proto';
import { dropsCaption, drawPosterior, type Draw, type DrawKey } from './domain/draws.js';
import { Shard } from './shards.js';

interface Place {
  shard: Shard;
  row: number;
}

interface Element {
  index: number;
  real: Place;
  /** Several images of one prompt take turns by epoch; empty without an opponent. */
  generated: Place[];
}

export interface DatasetOptions {
  encoded: readonly ArtifactRef[];
  generated: readonly ArtifactRef[];
  /** Every element must have a generated image. */
  pairs: boolean;
  key: DrawKey;
  scalingFactor: number;
  shiftFactor: number;
  samplePosterior: boolean;
  captionDropout: number;
  /** (1, T, D); needed when captions are dropped. */
  emptyText: TensorDto | null;
}

export class Dataset {
  private constructor(
    readonly options: DatasetOptions,
    readonly shards: readonly Shard[],
    readonly elements: readonly Element[],
    /** Encoded images that no generated one answers. */
    readonly unmatched: number,
  ) {}

  static async open(store: ArtifactStore, options: DatasetOptions): Promise<Dataset> {
    const shards: Shard[] = [];
    const openAll = async (refs: readonly ArtifactRef[], field: string, names: readonly string[]): Promise<Shard[]> => {
      const opened: Shard[] = [];
      for (const [i, ref] of refs.entries()) {
        const shard = await Shard.open(await store.localPath(ref), names, `${field}[${i}]`);
        shards.push(shard);
        opened.push(shard);
      }
      return opened;
    };
    try {
      const encoded = await openAll(options.encoded, 'encoded_shards', ['mean', 'logvar', 'text']);
      const generated = await openAll(options.generated, 'generated_shards', ['latents']);
      const { elements, unmatched } = match(encoded, generated, options.pairs);
      if (elements.length === 0) {
        throw new SpindleError(
          'INVALID_ARGUMENT',
          `encoded_shards: expected at least one ${options.pairs ? 'image that has a generated one' : 'image'}, got none`,
        );
      }
      return new Dataset(options, shards, elements, unmatched);
    } catch (error) {
      for (const shard of shards) await shard.close();
      throw error;
    }
  }

  get size(): number {
    return this.elements.length;
  }

  /** Elements [offset, offset + size) of a step's batch. */
  async batch(step: number, draws: readonly Draw[], offset: number, size: number): Promise<TrainBatchDto> {
    const rows = await Promise.all(draws.slice(offset, offset + size).map((draw) => this.#element(draw)));
    const first = this.elements[0]?.real.shard;
    const latentShape = first?.rowShape('mean') ?? [];
    return {
      step,
      offset,
      stepBatchSize: draws.length,
      real: stack(
        rows.map((row) => row.real),
        latentShape,
      ),
      generated: this.options.pairs
        ? stack(
            rows.map((row) => row.generated),
            latentShape,
          )
        : null,
      text: stack(
        rows.map((row) => row.text),
        first?.rowShape('text') ?? [],
      ),
    };
  }

  async close(): Promise<void> {
    for (const shard of this.shards) await shard.close();
  }

  async #element(draw: Draw): Promise<{ real: Float32Array; generated: Float32Array; text: Float32Array }> {
    const { key, samplePosterior, captionDropout, emptyText, scalingFactor, shiftFactor } = this.options;
    const element = this.elements[draw.rank];
    if (element === undefined) throw new SpindleError('INTERNAL', `data set: expected a rank below ${this.size}, got ${draw.rank}`);
    const { shard, row } = element.real;
    const real = await shard.row('mean', row);
    if (samplePosterior) drawPosterior(key, draw.position, real, await shard.row('logvar', row));
    for (let i = 0; i < real.length; i++) real[i] = ((real[i] ?? 0) - shiftFactor) * scalingFactor;
    const dropped = emptyText !== null && dropsCaption(key, draw.position, captionDropout);
    const text = dropped ? emptyText.data : await shard.row('text', row);
    const turn = element.generated[draw.epoch % Math.max(1, element.generated.length)];
    const generated = turn === undefined ? new Float32Array(0) : await turn.shard.row('latents', turn.row);
    return { real, generated, text };
  }
}

function match(encoded: readonly Shard[], generated: readonly Shard[], pairs: boolean): { elements: Element[]; unmatched: number } {
  const images = new Map<number, Place[]>();
  for (const shard of generated) {
    shard.index.forEach((index, row) => {
      const places = images.get(index);
      if (places === undefined) images.set(index, [{ shard, row }]);
      else places.push({ shard, row });
    });
  }
  const all = new Map<number, Element>();
  for (const shard of encoded) {
    shard.index.forEach((index, row) => {
      if (all.has(index)) throw new SpindleError('INVALID_ARGUMENT', `encoded_shards: expected every index once, got ${index} twice`);
      all.set(index, { index, real: { shard, row }, generated: images.get(index) ?? [] });
    });
  }
  // Sorted by index, so that the order does not depend on how the work was cut into shards.
  const sorted = [...all.values()].sort((a, b) => a.index - b.index);
  const elements = pairs ? sorted.filter((element) => element.generated.length > 0) : sorted;
  return { elements, unmatched: sorted.length - elements.length };
}

function stack(rows: readonly Float32Array[], shape: readonly number[]): TensorDto {
  const size = shape.reduce((product, n) => product * n, 1);
  const data = new Float32Array(rows.length * size);
  rows.forEach((row, n) => {
    if (row.length !== size)
      throw new SpindleError('INVALID_ARGUMENT', `shards: expected rows of ${size} numbers ([${shape.join(', ')}]), got ${row.length}`);
    data.set(row, n * size);
  });
  return { data, shape: [rows.length, ...shape] };
}
