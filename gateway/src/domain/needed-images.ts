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
  /** Images of a row, which take turns, an epoch each. */
  copies: number;
  /** With several views of each image, a row's copies are drawn together. */
  views: number;
}

/** An image of the opponent: the how manyth of which encoded row (by its place among them). */
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
  const { copies, views } = reading;
  const images: NeededImage[] = [];
  for (let n = start; n < Math.min(end, neededCount(reading, count)); n++) {
    const together = views > 1;
    const position = together ? Math.floor(n / copies) : n;
    const epoch = Math.floor(position / count);
    const element = orderOf(reading.key, epoch, count)[position % count] ?? 0;
    images.push({ element, copy: together ? n % copies : epoch });
  }
  return images;
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
