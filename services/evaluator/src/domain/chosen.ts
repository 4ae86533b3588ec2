/**
 * One image per prompt, as the paper takes it: that with the highest average of the judges' raw
 * scores. Every judge, and the average, is then told of that image, and every model is held against
 * every other.
 */
import type { Against } from '@spindle/kit/domain';

/** What is told of a model's chosen images by one judge, or by the average. */
export interface ChosenSummary {
  model: string;
  mean: number;
  meanLow: number;
  meanHigh: number;
  median: number;
  standardError: number;
}

/** One model's chosen images against another's. */
export interface ChosenPair extends Against {
  model: string;
  other: string;
}

export interface ChosenTable {
  /** A judge's name; null is the average. */
  metric: string | null;
  models: ChosenSummary[];
  /** Every two models once, in the report's order; `matrix` has both directions. */
  pairs: ChosenPair[];
}

export interface Chosen {
  /** Prompts, and the most images that one was chosen from. */
  n: number;
  imagesPerPrompt: number;
  /** The judges whose average chooses, in the order of the tables. */
  averaged: string[];
  tables: ChosenTable[];
}

/** Share of prompts that `model` wins over `other`, of 0 to 1, with its interval; null: itself. */
export function winOver(
  { pairs }: ChosenTable,
  model: string,
  other: string,
): Pick<Against, 'winRate' | 'winRateLow' | 'winRateHigh'> | null {
  const own = pairs.find((pair) => pair.model === model && pair.other === other);
  if (own !== undefined) return own;
  const turned = pairs.find((pair) => pair.model === other && pair.other === model);
  if (turned === undefined) return null;
  return {
    winRate: 1 - turned.winRate,
    winRateLow: 1 - turned.winRateHigh,
    winRateHigh: 1 - turned.winRateLow,
  };
}

/** Before the tables of chosen images. */
export function chosenSentence({ n, imagesPerPrompt, averaged }: Chosen): string {
  const judges = averaged.join(', ');
  const which =
    imagesPerPrompt > 1
      ? `One image per prompt: of up to ${imagesPerPrompt} that all models have, that with the ` +
        `highest average of ${judges} (${n} prompts).`
      : `The one image of each of ${n} prompts, by ${judges} and by their average.`;
  return (
    `${which} The average is the plain ` +
    "mean of the judges' raw scores, as in the paper: judges with wide scales weigh most. Win " +
    'rates are of the row over the column, with 95 % intervals; ties count one half.'
  );
}

/** A table's heading. */
export function chosenTitle({ metric }: ChosenTable): string {
  return metric ?? 'average of the judges';
}
