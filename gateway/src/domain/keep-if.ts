/** Pairs that a judge has training leave out. */

/**
 * A pair is kept if the metric's score of its generated image is at most `margin` above that of its
 * real one.
 */
export interface KeepIf {
  metric: string;
  margin: number;
}

/**
 * Places of the pairs that are left out. `scores` are those of the generated images, then in the
 * same order those of the real ones.
 */
export function leftOut(scores: readonly number[], { margin }: KeepIf): number[] {
  const pairs = scores.length / 2;
  return Array.from({ length: pairs }, (_, n) => n).filter(
    (n) => (scores[n] ?? 0) - (scores[pairs + n] ?? 0) > margin,
  );
}
