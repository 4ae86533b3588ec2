/**
 * Which of an opponent's images a training reads, in the order in which it reads them first. The
 * order of its data is a pure function, so nothing else has to be drawn, and what is drawn first is
 * what training begins with.
 */
import { epochOrder, type OrderKey } from '@spindle/kit/domain';

export interface Reading {
  key: OrderKey;
  /** Pairs that the training reads, over all steps. */
  positions: number;
  /** The position that it begins with; absent: 0. */
  first?: number;
  /** Images of a row, which take turns, an epoch each. */
  copies: number;
  /** With several views of each image, a row's copies are drawn together. */
  views: number;
}

/**
 * An image of the opponent: the how manyth of which encoded row (by its place among them). Where a
 * training begins within an epoch, a row counts from the epoch in which it is read first.
 */
export interface NeededImage {
  element: number;
  copy: number;
}

/** How many images training reads of `count` encoded rows. */
export function neededCount({ positions, copies, views }: Reading, count: number): number {
  return views > 1 ? Math.min(positions, count) * copies : Math.min(positions, count * copies);
}

/** Images [start, end) of those that training reads of `count` encoded rows. */
export function neededImages(
  reading: Reading,
  count: number,
  start: number,
  end: number,
): NeededImage[] {
  const { key, copies, views, first = 0 } = reading;
  const begins = Math.floor(first / count);
  const earlier = rowsBefore(key, first, count);
  const images: NeededImage[] = [];
  for (let n = start; n < Math.min(end, neededCount(reading, count)); n++) {
    const together = views > 1;
    const position = first + (together ? Math.floor(n / copies) : n);
    const epoch = Math.floor(position / count);
    const element = orderOf(key, epoch, count)[position % count] ?? 0;
    const turn = epoch - begins - Number(earlier.has(element));
    images.push({ element, copy: together ? turn * copies + (n % copies) : turn });
  }
  return images;
}

/** Rows of the epoch of position `first` that come before it. */
function rowsBefore(key: OrderKey, first: number, count: number): ReadonlySet<number> {
  const before = first % count;
  if (before === 0) return new Set();
  return new Set(orderOf(key, Math.floor(first / count), count).subarray(0, before));
}

/** Jobs of one stage are built one after the other: its order is made once. */
const kept: { name: string; order: Uint32Array }[] = [];
const keptOrders = 3;

function orderOf(key: OrderKey, epoch: number, count: number): Uint32Array {
  const name = `${key.seed} ${key.iteration} ${epoch} ${count}`;
  const found = kept.find((one) => one.name === name);
  if (found) return found.order;
  const order = epochOrder(key, epoch, count);
  kept.unshift({ name, order });
  kept.splice(keptOrders);
  return order;
}
