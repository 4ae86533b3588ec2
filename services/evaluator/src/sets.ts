/** Named sets of prompts, each with statistics of its own. */
import type { Scored } from '@spindle/kit';
import { chooseImages, type ScoredModel } from './choose-images.js';
import type { Chosen } from './domain/chosen.js';

/** A score of a prompt that may be in a named set; empty: in none. */
export interface InSet extends Scored {
  set: string;
}

/** In the order in which they first occur. */
export function setsOf(scores: Iterable<InSet>): string[] {
  return [...new Set([...scores].map(({ set }) => set))].filter((set) => set !== '');
}

/** One image per prompt, of each set's prompts alone; what no model has is left out. */
export function chooseInSets(
  models: readonly { name: string; scores: ReadonlyMap<string, readonly InSet[]> }[],
  average: readonly string[],
): { set: string; chosen: Chosen }[] {
  const [first] = models;
  const sets = setsOf([...(first?.scores.values() ?? [])].flat());
  return sets.flatMap((set) => {
    const own = models.map(
      ({ name, scores }): ScoredModel => ({
        name,
        scores: new Map([...scores].map(([metric, list]) => [metric, inSet(list, set)])),
      }),
    );
    const chosen = chooseImages(own, average);
    return chosen === null ? [] : [{ set, chosen }];
  });
}

export function inSet<T extends InSet>(scores: readonly T[], set: string): T[] {
  return scores.filter((score) => score.set === set);
}
