/** Chooses one image per prompt by the average of all judges, and tells of those alone. */
import { compare, summarise, type Scored } from '@spindle/kit';
import { correctTogether } from '@spindle/kit/domain';
import type { Chosen, ChosenPair, ChosenSummary } from './domain/chosen.js';

/** A model's scores by judge; a judge's lists have one entry per image. */
export interface ScoredModel {
  name: string;
  scores: ReadonlyMap<string, readonly Scored[]>;
}

/**
 * Of the images that all models have; a model that lacks a judge of the first one is left out,
 * since its average would be over others. `average` names the judges whose average counts, all
 * without. Null where no image is left.
 */
export function chooseImages(
  models: readonly ScoredModel[],
  average: readonly string[] = [],
): Chosen | null {
  const metrics = [...(models[0]?.scores.keys() ?? [])];
  const averaged = average.length === 0 ? metrics : metrics.filter((m) => average.includes(m));
  const columnsAveraged = averaged.map((metric) => metrics.indexOf(metric));
  const complete = models.filter(({ scores }) => metrics.every((metric) => scores.has(metric)));
  const images = complete.map(({ scores }) => imagesOf(scores, metrics));
  const shared = [...(images[0]?.values() ?? [])].filter(({ key }) =>
    images.every((own) => own.get(key)?.values.length === metrics.length),
  );
  if (metrics.length === 0 || shared.length === 0) return null;
  const counts = new Map<number, number>();
  for (const { prompt } of shared) counts.set(prompt, (counts.get(prompt) ?? 0) + 1);
  const chosen = images.map((own) =>
    bestPerPrompt(
      shared.map(({ key }) => own.get(key)),
      columnsAveraged,
    ),
  );
  const columns = [...metrics.keys(), ...(averaged.length > 1 ? [null] : [])];
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
  return { n: counts.size, imagesPerPrompt: Math.max(...counts.values()), averaged, tables };
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
function bestPerPrompt(
  images: readonly (Image | undefined)[],
  averaged: readonly number[],
): (Image & { average: number })[] {
  const found = new Map<number, Image & { average: number }>();
  for (const image of images) {
    if (image === undefined) continue;
    const average =
      averaged.reduce((sum, column) => sum + (image.values[column] ?? Number.NaN), 0) /
      averaged.length;
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
