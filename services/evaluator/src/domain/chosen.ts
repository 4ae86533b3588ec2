/**
 * One image per prompt, as the paper takes it: that with the highest average of all judges' raw
 * scores. Every judge, and the average, is then told of that image, and every model is held against
 * every other.
 */
import { compare, summarise, type Scored } from '@spindle/kit';
import { correctTogether, type Against } from '@spindle/kit/domain';

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
  /** A judge's name; null is the average of them all. */
  metric: string | null;
  models: ChosenSummary[];
  /** Every two models once, in the report's order; `matrix` has both directions. */
  pairs: ChosenPair[];
}

export interface Chosen {
  /** Prompts, and the most images that one was chosen from. */
  n: number;
  imagesPerPrompt: number;
  tables: ChosenTable[];
}

/** A model's scores by judge; a judge's lists have one entry per image. */
export interface ScoredModel {
  name: string;
  scores: ReadonlyMap<string, readonly Scored[]>;
}

/**
 * Of the images that all models have; a model that lacks a judge of the first one is left out, since
 * its average would be over others. Null where no image is left.
 */
export function chooseImages(models: readonly ScoredModel[]): Chosen | null {
  const metrics = [...(models[0]?.scores.keys() ?? [])];
  const complete = models.filter(({ scores }) => metrics.every((metric) => scores.has(metric)));
  const images = complete.map(({ scores }) => imagesOf(scores, metrics));
  const shared = [...(images[0]?.values() ?? [])].filter(({ key }) =>
    images.every((own) => own.get(key)?.values.length === metrics.length),
  );
  if (metrics.length === 0 || shared.length === 0) return null;
  const counts = new Map<number, number>();
  for (const { prompt } of shared) counts.set(prompt, (counts.get(prompt) ?? 0) + 1);
  const chosen = images.map((own) => bestPerPrompt(shared.map(({ key }) => own.get(key))));
  const columns = [...metrics.keys(), ...(metrics.length > 1 ? [null] : [])];
  const tables = columns.map((column) => {
    const lists = chosen.map((own) =>
      own.map(({ prompt, values, average }) => ({
        ...{ prompt, seed: 0n, value: column === null ? average : (values[column] ?? Number.NaN) },
      })),
    );
    return {
      metric: column === null ? null : (metrics[column] ?? null),
      models: complete.map(({ name }, i) => summaryOf(name, lists[i] ?? [])),
      pairs: pairsOf(
        complete.map(({ name }) => name),
        lists,
      ),
    };
  });
  correctTogether(tables.flatMap(({ pairs }) => pairs));
  return { n: counts.size, imagesPerPrompt: Math.max(...counts.values()), tables };
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

interface Image {
  key: string;
  prompt: number;
  /** One per judge. */
  values: number[];
}

function imagesOf(
  scores: ScoredModel['scores'],
  metrics: readonly string[],
): ReadonlyMap<string, Image> {
  const images = new Map<string, Image>();
  for (const metric of metrics) {
    for (const { prompt, seed, value } of scores.get(metric) ?? []) {
      const key = `${prompt}/${seed}`;
      const image = images.get(key);
      if (image === undefined) images.set(key, { key, prompt, values: [value] });
      else image.values.push(value);
    }
  }
  return images;
}

/** The first of those with the highest average. */
function bestPerPrompt(images: readonly (Image | undefined)[]): (Image & { average: number })[] {
  const found = new Map<number, Image & { average: number }>();
  for (const image of images) {
    if (image === undefined) continue;
    const average = image.values.reduce((sum, value) => sum + value, 0) / image.values.length;
    const best = found.get(image.prompt);
    if (best === undefined || average > best.average)
      found.set(image.prompt, { ...image, average });
  }
  return [...found.values()];
}

function summaryOf(model: string, scores: readonly Scored[]): ChosenSummary {
  const { mean, meanLow, meanHigh, median, standardError } = summarise(scores);
  return { model, mean, meanLow, meanHigh, median, standardError };
}

function pairsOf(names: readonly string[], lists: readonly (readonly Scored[])[]): ChosenPair[] {
  return names.flatMap((model, i) =>
    names.slice(i + 1).map((other, after) => {
      const { n: _n, ...against } = compare(lists[i] ?? [], lists[i + 1 + after] ?? []);
      return { model, other, ...against };
    }),
  );
}

/** Before the tables of chosen images. */
export function chosenSentence({ n, imagesPerPrompt, tables }: Chosen): string {
  const judges = tables.flatMap(({ metric }) => metric ?? []);
  return (
    `One image per prompt, that with the highest average of ${judges.join(', ')}` +
    ` (of up to ${imagesPerPrompt} that all models have; ${n} prompts). The average is the plain ` +
    "mean of the judges' raw scores, as in the paper: judges with wide scales weigh most. Win " +
    'rates are of the row over the column, with 95 % intervals; ties count one half.'
  );
}

/** A table's heading. */
export function chosenTitle({ metric }: ChosenTable): string {
  return metric ?? 'average of the judges';
}
