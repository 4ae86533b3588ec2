/**
 * The order in which a training reads its data: a function of seed, iteration and epoch, so that
 * who draws the images knows which ones training will read, and when.
 */
import { philox, uniform } from './philox.js';

/** What the order of a training follows from. */
export interface OrderKey {
  seed: bigint;
  iteration: number;
}

/** The last word of Philox's counter; training has other words for its other draws. */
const stream = 1;

/** A permutation of [0, count) for one epoch. */
export function epochOrder(key: OrderKey, epoch: number, count: number): Uint32Array {
  const order = Uint32Array.from({ length: count }, (_, i) => i);
  for (let i = count - 1; i > 0; i--) {
    const [high, low] = philox(key.seed, [i, epoch, key.iteration, stream]);
    const j = Math.floor(uniform(high, low) * (i + 1));
    const held = order[i] ?? 0;
    order[i] = order[j] ?? 0;
    order[j] = held;
  }
  return order;
}
