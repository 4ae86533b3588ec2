/**
 * Every random decision about data: which element comes when, which captions are dropped, which
 * latents are drawn. Each is a function of seed, iteration and position, so that a training that
 * resumes, or that other ranks take part in, decides the same.
 */
import { epochOrder, normals, philox, uniform, type OrderKey } from '@spindle/kit/domain';

export type DrawKey = OrderKey;

// The last word of Philox's counter, which keeps the kinds of draws apart: 1 is the order's. The
// engine has other words for its noise.
const stream = {
  captionDropout: 2,
  posterior: 3,
  rejectedPosterior: 4,
  previous: 5,
} as const;

/** An entry of the endless sequence of shuffled epochs. */
export interface Draw {
  /** The element's number in the data set, whose elements are sorted by index. */
  element: number;
  epoch: number;
  /** Place in the endless sequence: step * batch size + place in the batch. */
  position: number;
}

/** Walks the shuffled epochs. Any step can be asked for; one of the same epoch costs no shuffle. */
export class DataOrder {
  #epoch = -1;
  #order: Uint32Array = new Uint32Array(0);

  constructor(
    readonly key: DrawKey,
    readonly count: number,
    readonly batchSize: number,
  ) {}

  batch(step: number): Draw[] {
    return Array.from({ length: this.batchSize }, (_, place) =>
      this.at(step * this.batchSize + place),
    );
  }

  at(position: number): Draw {
    const epoch = Math.floor(position / this.count);
    if (epoch !== this.#epoch) {
      this.#order = epochOrder(this.key, epoch, this.count);
      this.#epoch = epoch;
    }
    return { element: this.#order[position % this.count] ?? 0, epoch, position };
  }
}

/**
 * What is read in the place of a draw whose generated image was lost: the nearest draw before it
 * that has one, else the nearest after it. Only draws of this training are looked at, as no others
 * were asked of the opponent. The place in the sequence stays, so all that is drawn for it too.
 */
export function standIn(
  lost: Draw,
  order: DataOrder,
  steps: number,
  has: (element: number) => boolean,
): Draw {
  const end = steps * order.batchSize;
  for (let distance = 1; distance < end; distance++) {
    const before = lost.position - distance;
    const position = before >= 0 ? before : distance;
    const draw = order.at(position);
    if (has(draw.element)) return { ...draw, position: lost.position };
  }
  return lost;
}

/** Whether this draw's caption is one of the `fraction` that the empty prompt replaces. */
export function dropsCaption(key: DrawKey, position: number, fraction: number): boolean {
  if (fraction === 0) return false;
  const [high, low] = philox(key.seed, [0, position, key.iteration, stream.captionDropout]);
  return uniform(high, low) < fraction;
}

/** Whether this draw's image is one of the `fraction` that the iteration before generated. */
export function takesPrevious(key: DrawKey, position: number, fraction: number): boolean {
  if (fraction === 0) return false;
  const [high, low] = philox(key.seed, [0, position, key.iteration, stream.previous]);
  return uniform(high, low) < fraction;
}

/** Replaces `mean` by mean + exp(logvar / 2) * noise. */
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

/** A run of a step's batch. `last` is set on the last one that a rank computes. */
export interface MicroBatch extends Range {
  last: boolean;
}

/**
 * The local batch of one of `worldSize` ranks, cut into `parts` micro-batches. It is empty for the
 * last ranks where there are more ranks than pairs.
 *
 * `shapes` has the shape number of every element of the step's batch, with equal ones side by side.
 * A micro-batch holds elements of one shape. Where the local batch has several shapes, there are as
 * many micro-batches as it takes that none is larger than if all elements had one shape.
 */
export function microBatches(
  shapes: readonly number[],
  parts: number,
  rank = 0,
  worldSize = 1,
): MicroBatch[] {
  const local = cut({ offset: 0, size: shapes.length }, worldSize)[rank];
  if (local === undefined) return [];
  const runs = runsOf(shapes, local);
  const most = Math.ceil(local.size / parts);
  const batches = runs.flatMap((run) =>
    cut(run, runs.length === 1 ? parts : Math.ceil(run.size / most)),
  );
  return batches.map((range, i) => ({ ...range, last: i === batches.length - 1 }));
}

/** A range, cut where the shape changes. */
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
 * A step's draws, those of one shape side by side. Smaller shape numbers come first; draws of one
 * shape keep their order. The engine keys its noise by the place in this order, so the order does
 * not depend on how the batch is cut.
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
