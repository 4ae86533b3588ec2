/**
 * The data set of a training: real and generated latents with their captions. They are matched by
 * the image's index in the run, and read as batches that the engine takes.
 */
import { SpindleError } from '@spindle/kit';
import { type ArtifactStore } from '@spindle/mesh';
import type { TextStates } from '@spindle/models';
import type { TensorDto, TrainBatchDto } from '@spindle/native';
import type { ArtifactRef } from '@spindle/proto';
import {
  dropsCaption,
  drawPosterior,
  takesPrevious,
  type Draw,
  type DrawKey,
  type MicroBatch,
} from './domain/draws.js';
import type { opponentImages } from './domain/settings.js';
import { Shard, type Names } from './shards.js';

/** Where one image's latents lie. */
interface Place {
  shard: Shard;
  row: number;
}

interface Element {
  index: number;
  /** The number of its latents' shape in `Dataset.shapes`. */
  shape: number;
  /** The views (crops, mirror images) of the real image. They take turns, one an epoch. */
  real: Place[];
  /**
   * The images of the opponent, or the rejected ones. They take turns, one an epoch (`turnOf`).
   * Empty for an objective that has no opponent.
   */
  others: Place[];
  /** The images that the opponent of the iteration before drew for the same prompt. */
  previous: Place[];
}

export interface DatasetOptions {
  encoded: readonly ArtifactRef[];
  generated: readonly ArtifactRef[];
  /** Images of each generated shard that are not read: the how manyth of which index. */
  leftOut: readonly { indexes: readonly number[]; copies: readonly number[] }[];
  /** Images of the iteration before. `previousShare` is the fraction of the draws that take one. */
  previous: readonly ArtifactRef[];
  previousShare: number;
  /** The image that every element must have beside the real one; null: no other image. */
  against: ReturnType<typeof opponentImages>;
  /**
   * Images were drawn for the rows that this training reads, and for no others: every encoded row
   * has its place in the order, and a row whose image was lost has a stand-in. False: rows without
   * an image have no place.
   */
  drawnAsRead: boolean;
  /** More generated shards may come: append() takes them in. Absent: `generated` are all. */
  isOpen?: boolean;
  key: DrawKey;
  scalingFactor: number;
  shiftFactor: number;
  samplePosterior: boolean;
  captionDropout: number;
  /** The text states of the empty prompt, one row. Null where no captions are dropped. */
  emptyText: TextStates | null;
}

/** A generated shard holds the sampler's latents, or the posterior of its decoded pixels. */
export const drawnNames: Names = (has) =>
  has('mean') && !has('text') ? ['mean', 'logvar'] : ['latents'];

export class Dataset {
  #byIndex: ReadonlyMap<number, Element> | undefined;

  private constructor(
    readonly options: DatasetOptions,
    readonly shards: Shard[],
    readonly elements: readonly Element[],
    /** Shapes of latents, each (C, h, w). There are several with aspect-ratio buckets. */
    readonly shapes: readonly (readonly number[])[],
    /** How many encoded images were left out because they have no other image. */
    readonly unmatched: number,
  ) {}

  static async open(store: ArtifactStore, options: DatasetOptions): Promise<Dataset> {
    const shards: Shard[] = [];
    const openAll = async (
      refs: readonly ArtifactRef[],
      field: string,
      names: Names,
      index?: string,
    ): Promise<Shard[]> => {
      const opened: Shard[] = [];
      for (const [i, ref] of refs.entries()) {
        const shard = await Shard.open(await store.localPath(ref), names, `${field}[${i}]`, index);
        shards.push(shard);
        opened.push(shard);
      }
      return opened;
    };
    const { against } = options;
    try {
      const encoded = await openAll(options.encoded, 'encoded_shards', ['mean', 'logvar', 'text']);
      const withRejected = options.encoded.filter((_, i) => encoded[i]?.has('rejected_index'));
      const others =
        against === 'rejected'
          ? await openAll(
              withRejected,
              'encoded_shards',
              ['rejected_mean', 'rejected_logvar'],
              'rejected_index',
            )
          : await openAll(options.generated, 'generated_shards', drawnNames);
      const previous = await openAll(options.previous, 'previous_shards', drawnNames);
      const { elements, shapes, unmatched } = match(encoded, others, previous, {
        pairs: against !== null && !options.drawnAsRead,
        leftOut: options.leftOut,
      });
      const pairs = against !== null;
      const isEnough =
        options.isOpen === true || elements.some(({ others: own }) => !pairs || own.length > 0);
      if (!isEnough || elements.length === 0) {
        throw new SpindleError(
          'INVALID_ARGUMENT',
          'encoded_shards: expected at least one image' +
            `${against === null ? '' : ` that has a ${against} one`}, got none`,
        );
      }
      return new Dataset(options, shards, elements, shapes, unmatched);
    } catch (error) {
      for (const shard of shards) await shard.close();
      throw error;
    }
  }

  get size(): number {
    return this.elements.length;
  }

  /** Whether an element has all that a draw of it reads. */
  has(element: number): boolean {
    return this.options.against === null || (this.elements[element]?.others.length ?? 0) > 0;
  }

  /** Takes in the next generated shard, and closes it with the others. */
  append(shard: Shard): void {
    this.shards.push(shard);
    this.#byIndex ??= new Map(this.elements.map((element) => [element.index, element]));
    shard.index.forEach((index, row) => {
      const element = this.#byIndex?.get(index);
      if (element === undefined) return;
      const place = { shard, row };
      expectShape(index, shapeOf(place), this.shapes[element.shape] ?? []);
      element.others.push(place);
    });
  }

  /** How many rows of shards an element's generated images are. */
  placesOf(element: number): number {
    return this.elements[element]?.others.length ?? 0;
  }

  /** The number in `shapes` of the shape of a draw's latents. */
  shapeOf(draw: Draw): number {
    return this.elements[draw.element]?.shape ?? 0;
  }

  /**
   * Elements [offset, offset + size) of a step's batch. All are of one shape. `last` says that
   * this rank asks for no more elements of the step.
   */
  async batch(
    step: number,
    draws: readonly Draw[],
    { offset, size, last }: MicroBatch,
  ): Promise<TrainBatchDto> {
    const own = draws.slice(offset, offset + size);
    const rows = await Promise.all(own.map((draw) => this.#element(draw)));
    const first = this.elements[0]?.real[0]?.shard;
    const [shape = 0] = own.map((draw) => this.shapeOf(draw));
    const latentShape = this.shapes[shape] ?? [];
    return {
      step,
      offset,
      stepBatchSize: draws.length,
      last,
      later: true,
      real: stack(
        rows.map((row) => row.real),
        latentShape,
      ),
      generated:
        this.options.against === null
          ? null
          : stack(
              rows.map((row) => row.other),
              latentShape,
            ),
      text: stack(
        rows.map((row) => row.text),
        first?.rowShape('text', 0) ?? [],
      ),
      beta: null,
      ...(first?.has('pooled') === true
        ? {
            pooled: stack(
              rows.map((row) => row.pooled),
              first.rowShape('pooled', 0),
            ),
            timeIds: stack(
              rows.map((row) => row.timeIds),
              first.rowShape('time_ids', 0),
            ),
          }
        : { pooled: null, timeIds: null }),
    };
  }

  async close(): Promise<void> {
    for (const shard of this.shards) await shard.close();
  }

  async #element(
    draw: Draw,
  ): Promise<Record<'real' | 'other' | 'text' | 'pooled' | 'timeIds', Float32Array>> {
    const { key, captionDropout, emptyText } = this.options;
    const element = this.elements[draw.element];
    if (element === undefined) {
      throw new SpindleError(
        'INTERNAL',
        `data set: expected an element below ${this.size}, got ${draw.element}`,
      );
    }
    const { key: drawKey, previousShare } = this.options;
    const view = draw.epoch % element.real.length;
    const place = element.real[view];
    if (place === undefined) {
      throw new SpindleError('INTERNAL', `data set: expected a view of ${element.index}, got none`);
    }
    const { shard, row } = place;
    const real = await this.#encoded(place, draw, '');
    const dropped = emptyText !== null && dropsCaption(key, draw.position, captionDropout);
    const text = dropped ? emptyText.text.data : await shard.row('text', row);
    const pooled =
      dropped && emptyText.pooled !== null
        ? emptyText.pooled.data
        : await shard.optionalRow('pooled', row);
    const timeIds = await shard.optionalRow('time_ids', row);
    const earlier =
      element.previous.length > 0 && takesPrevious(drawKey, draw.position, previousShare);
    const turn = turnOf(
      earlier ? element.previous : element.others,
      draw.epoch,
      element.real.length,
    );
    if (turn === undefined) return { real, other: new Float32Array(0), text, pooled, timeIds };
    const rejected = this.options.against === 'rejected';
    const other = turn.shard.has('latents')
      ? await turn.shard.row('latents', turn.row)
      : await this.#encoded(turn, draw, rejected ? 'rejected_' : '', 'rejectedPosterior');
    return { real, other, text, pooled, timeIds };
  }

  /** An image's latents, (C, h, w), drawn from its posterior and scaled for the U-Net. */
  async #encoded(
    { shard, row }: Place,
    draw: Draw,
    prefix: '' | 'rejected_',
    draws: 'posterior' | 'rejectedPosterior' = 'posterior',
  ): Promise<Float32Array> {
    const { key, samplePosterior, scalingFactor, shiftFactor } = this.options;
    const latents = await shard.row(`${prefix}mean`, row);
    if (samplePosterior) {
      drawPosterior(key, draw.position, latents, await shard.row(`${prefix}logvar`, row), draws);
    }
    for (let i = 0; i < latents.length; i++) {
      latents[i] = ((latents[i] ?? 0) - shiftFactor) * scalingFactor;
    }
    return latents;
  }
}

/**
 * The image whose turn it is in an epoch; undefined without images. A sampler's latents have no
 * views, so they take turns one by one. Images that were encoded like the real one have as many
 * views, side by side: the turn goes to the view that the real image shows in this epoch.
 */
function turnOf(places: readonly Place[], epoch: number, views: number): Place | undefined {
  const first = places[0];
  if (first === undefined || first.shard.has('latents')) {
    return places[epoch % Math.max(1, places.length)];
  }
  const copies = Math.max(1, Math.floor(places.length / views));
  return places[(Math.floor(epoch / views) % copies) * views + (epoch % views)];
}

/**
 * Where the images of each index lie, in the order of the shards and their rows, without those that
 * are left out. A shard of latents has one row per image, one of posteriors `views` of them.
 */
function placesOf(
  shards: readonly Shard[],
  leftOut: DatasetOptions['leftOut'] = [],
  views: (index: number) => number = () => 1,
): Map<number, Place[]> {
  const images = new Map<number, Place[]>();
  for (const [n, shard] of shards.entries()) {
    const { indexes = [], copies = [] } = leftOut[n] ?? {};
    const without = new Set(indexes.map((index, i) => `${index} ${copies[i] ?? 0}`));
    const seen = new Map<number, number>();
    shard.index.forEach((index, row) => {
      const before = seen.get(index) ?? 0;
      seen.set(index, before + 1);
      const copy = Math.floor(before / (shard.has('latents') ? 1 : views(index)));
      if (without.has(`${index} ${copy}`)) return;
      const places = images.get(index);
      if (places === undefined) images.set(index, [{ shard, row }]);
      else places.push({ shard, row });
    });
  }
  return images;
}

/** One element for each encoded image. With `pairs`, those without another image have none. */
function match(
  encoded: readonly Shard[],
  others: readonly Shard[],
  previous: readonly Shard[],
  { pairs, leftOut }: { pairs: boolean; leftOut: DatasetOptions['leftOut'] },
): { elements: Element[]; shapes: number[][]; unmatched: number } {
  const real = placesOf(encoded);
  const images = placesOf(others, leftOut, (index) => real.get(index)?.length ?? 1);
  const before = placesOf(previous);
  const all = new Map<number, Omit<Element, 'shape'>>();
  for (const shard of encoded) {
    shard.index.forEach((index, row) => {
      const known = all.get(index);
      if (known === undefined) {
        all.set(index, {
          index,
          real: [{ shard, row }],
          others: images.get(index) ?? [],
          previous: before.get(index) ?? [],
        });
      } else if (known.real[0]?.shard === shard) known.real.push({ shard, row });
      else {
        throw new SpindleError(
          'INVALID_ARGUMENT',
          `encoded_shards: expected every index in one shard, got ${index} in two`,
        );
      }
    });
  }
  // Sorted by index, so that the order does not depend on how the work was cut into shards.
  const sorted = [...all.values()].sort((a, b) => a.index - b.index);
  const matched = pairs ? sorted.filter((element) => element.others.length > 0) : sorted;
  return { ...withShapes(matched), unmatched: sorted.length - matched.length };
}

/**
 * Gives each element the number of its shape. Shapes are numbered in the order of their sizes, so
 * that the numbers do not depend on the order of the elements. All images of an element must have
 * one shape.
 */
function withShapes(elements: readonly Omit<Element, 'shape'>[]): {
  elements: Element[];
  shapes: number[][];
} {
  const found = new Map<string, number[]>();
  const names = elements.map(({ index, real, others, previous }) => {
    const [first = [], ...rest] = [...real, ...others, ...previous].map(shapeOf);
    const name = first.join(', ');
    for (const shape of rest) expectShape(index, shape, first);
    found.set(name, [...first]);
    return name;
  });
  const sorted = [...found].sort(([, a], [, b]) => compare(a, b));
  const numbers = new Map(sorted.map(([name], number) => [name, number]));
  return {
    elements: elements.map((element, i) => ({
      ...element,
      shape: numbers.get(names[i] ?? '') ?? 0,
    })),
    shapes: sorted.map(([, shape]) => shape),
  };
}

function expectShape(index: number, shape: readonly number[], expected: readonly number[]): void {
  if (shape.join(', ') === expected.join(', ')) return;
  throw new SpindleError(
    'INVALID_ARGUMENT',
    `shards: expected all latents of image ${index} to be [${expected.join(', ')}], ` +
      `got [${shape.join(', ')}]`,
  );
}

/** (C, h, w) of an image's latents. */
function shapeOf({ shard, row }: Place): readonly number[] {
  const name = ['latents', 'mean', 'rejected_mean'].find((each) => shard.has(each)) ?? '';
  return shard.rowShape(name, row);
}

/** Order by the first dimension that differs. */
function compare(a: readonly number[], b: readonly number[]): number {
  const at = a.findIndex((n, i) => n !== b[i]);
  return at === -1 ? a.length - b.length : (a[at] ?? 0) - (b[at] ?? 0);
}

/** N rows of one shape as a tensor (N, ...shape). */
function stack(rows: readonly Float32Array[], shape: readonly number[]): TensorDto {
  const size = shape.reduce((product, n) => product * n, 1);
  const data = new Float32Array(rows.length * size);
  rows.forEach((row, n) => {
    if (row.length !== size) {
      throw new SpindleError(
        'INVALID_ARGUMENT',
        `shards: expected rows of ${size} numbers ([${shape.join(', ')}]), got ${row.length}`,
      );
    }
    data.set(row, n * size);
  });
  return { data, shape: [rows.length, ...shape] };
}
