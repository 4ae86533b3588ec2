/**
 * Every random decision about data: which element comes when, which captions are dropped, which
 * latents are drawn.
 */
import { normals, philox, uniform } from '@spindle/kit/domain';

export interface DrawKey {
  seed: bigint;
  iteration: number;
}

// The counter's last word keeps the kinds of draws apart; the engine keys its noise with words of
// its own.
const stream = {
  order: 1,
  captionDropout: 2,
  posterior: 3,
  rejectedPosterior: 4,
  previous: 5,
} as const;

/** A permutation of [0, count) for one epoch. */
export function epochOrder(key: DrawKey, epoch: number, count: number): Uint32Array {
  const order = Uint32Array.from({ length: count }, (_, i) => i);
  for (let i = count - 1; i > 0; i--) {
    const [high, low] = philox(key.seed, [i, epoch, key.iteration, stream.order]);
    const j = Math.floor(uniform(high, low) * (i + 1));
    const held = order[i] ?? 0;
    order[i] = order[j] ?? 0;
    order[j] = held;
  }
  return order;
}

/** An element of the endless sequence of shuffled epochs. */
export interface Draw {
  /** Rank among the data set's elements. */
  rank: number;
  epoch: number;
  /** Place in the whole sequence: step * batch size + place in the batch. */
  position: number;
}

/** Walks the shuffled epochs; any step can be asked for, the neighbouring ones are cheap. */
export class DataOrder {
  #epoch = -1;
  #order: Uint32Array = new Uint32Array(0);

  constructor(
    readonly key: DrawKey,
    readonly count: number,
    readonly batchSize: number,
  ) {}

  batch(step: number): Draw[] {
    return Array.from({ length: this.batchSize }, (_, place) => {
      const position = step * this.batchSize + place;
      const epoch = Math.floor(position / this.count);
      if (epoch !== this.#epoch) {
        this.#order = epochOrder(this.key, epoch, this.count);
        this.#epoch = epoch;
      }
      return { rank: this.#order[position % this.count] ?? 0, epoch, position };
    });
  }
}

export function dropsCaption(key: DrawKey, position: number, share: number): boolean {
  if (share === 0) return false;
  const [high, low] = philox(key.seed, [0, position, key.iteration, stream.captionDropout]);
  return uniform(high, low) < share;
}

/** Whether this draw's generated image is one of the iteration before. */
export function takesPrevious(key: DrawKey, position: number, share: number): boolean {
  if (share === 0) return false;
  const [high, low] = philox(key.seed, [0, position, key.iteration, stream.previous]);
  return uniform(high, low) < share;
}

/** mean + exp(logvar / 2) * noise, in place of `mean`. */
export function drawPosterior(
  key: DrawKey,
  position: number,
  mean: Float32Array,
  logvar: Float32Array,
  draws: 'posterior' | 'rejectedPosterior' = 'posterior',
): void {
  for (let i = 0; i < mean.length; i += 2) {
    const pair = normals(philox(key.seed, [i >>> 1, position, key.iteration, stream[draws]]));
    for (let k = i; k < Math.min(i + 2, mean.length); k++) {
      mean[k] = (mean[k] ?? 0) + Math.exp((logvar[k] ?? 0) / 2) * (pair[k - i] ?? 0);
    }
  }
}

export interface Range {
  offset: number;
  size: number;
}

/** Cuts a range into `parts` runs whose sizes differ by one at most; empty ones are left out. */
function cut({ offset: start, size: whole }: Range, parts: number): Range[] {
  const base = Math.floor(whole / parts);
  const larger = whole % parts;
  const ranges: Range[] = [];
  let offset = start;
  for (let i = 0; i < parts; i++) {
    const size = base + (i < larger ? 1 : 0);
    if (size > 0) ranges.push({ offset, size });
    offset += size;
  }
  return ranges;
}

/** A run of a step's batch; `last` is set on the last one that a rank computes. */
export interface MicroBatch extends Range {
  last: boolean;
}

/**
 * What one of `worldSize` ranks computes of a step's batch, cut into `parts` micro-batches. Empty
 * where there are more ranks than pairs.
 * `shapes` are those of the batch's elements, equal ones side by side: where a rank's share has
 * several, a micro-batch has one of them and
 * there are as many as it takes to have none larger than with `parts` alike ones.
 */
export function microBatches(
  shapes: readonly number[],
  parts: number,
  rank = 0,
  worldSize = 1,
): MicroBatch[] {
  const share = cut({ offset: 0, size: shapes.length }, worldSize)[rank];
  if (share === undefined) return [];
  const runs = runsOf(shapes, share);
  const most = Math.ceil(share.size / parts);
  const batches = runs.flatMap((run) =>
    cut(run, runs.length === 1 ? parts : Math.ceil(run.size / most)),
  );
  return batches.map((range, i) => ({ ...range, last: i === batches.length - 1 }));
}

/** The parts of a range with one shape each. */
function runsOf(shapes: readonly number[], { offset, size }: Range): Range[] {
  const runs: Range[] = [];
  for (let i = offset; i < offset + size; i++) {
    const run = runs.at(-1);
    if (run !== undefined && shapes[i] === shapes[i - 1]) run.size++;
    else runs.push({ offset: i, size: 1 });
  }
  return runs;
}

/**
 * A step's draws with those of one shape side by side, smaller shape numbers first, else in their
 * order: what a place in the batch keys does not depend on how the batch is cut.
 */
export function byShape(
  draws: readonly Draw[],
  shapeOf: (draw: Draw) => number,
): { draws: Draw[]; shapes: number[] } {
  const sorted = draws
    .map((draw) => ({ draw, shape: shapeOf(draw) }))
    .sort((a, b) => a.shape - b.shape);
  return { draws: sorted.map(({ draw }) => draw), shapes: sorted.map(({ shape }) => shape) };
}
