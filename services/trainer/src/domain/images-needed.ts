/**
 * How many of an opponent's images training has read before a position of its order. They are drawn
 * in this order (gateway/src/domain/needed-images.ts), so these are the first ones.
 */
import type { Draw } from './draws.js';

export interface DrawnInOrder {
  /** Images of a row, which take turns, an epoch each. */
  copies: number;
  /** Views of an image; with several, a row's copies are drawn together. */
  views: number;
}

/** Images that positions [0, positions) read of `rows` rows. */
export function imagesNeeded(
  { copies, views }: DrawnInOrder,
  rows: number,
  positions: number,
): number {
  return views > 1 ? Math.min(positions, rows) * copies : Math.min(positions, rows * copies);
}

/** How many places a row's images have at least when the one of this draw is among them. */
export function placesNeeded({ copies, views }: DrawnInOrder, { epoch }: Draw): number {
  return views > 1 ? copies * views : Math.min(epoch, copies - 1) + 1;
}
