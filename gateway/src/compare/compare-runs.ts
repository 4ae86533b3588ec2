/** Two models, of one run or of two, by the prompts and seeds that both were judged on. */
import {
  best,
  compare,
  SpindleError,
  summarise,
  type Comparison,
  type Scored,
  type Summary,
} from '@spindle/kit';
import { correctTogether } from '@spindle/kit/domain';
import { configDifferences, type Difference } from '../config/changes.js';
import type { ImageScores, Judge, RunFiles } from './run-files.js';

export interface Side {
  run: string;
  model: string;
}

export interface MetricComparison {
  metric: string;
  /** Empty for all prompts. */
  category: string;
  a: Summary;
  b: Summary;
  /** B against A. */
  b_against_a: Comparison;
  /** Of the best of a prompt's images, where there are several. */
  best_of: Comparison | null;
}

export interface RunComparison {
  a: Side;
  b: Side;
  /** Images that both have, and those that only one has. */
  paired: number;
  only_a: number;
  only_b: number;
  metrics: MetricComparison[];
  /** Metrics left out, and why. */
  skipped: { metric: string; reason: string }[];
  /** From A's settings to B's. */
  settings: Difference[];
}

export function compareRuns(
  a: RunFiles,
  b: RunFiles,
  models: { a?: string | undefined; b?: string | undefined } = {},
): RunComparison {
  const [modelA, modelB] = [pick(a, models.a, '--model-a'), pick(b, models.b, '--model-b')];
  const [imagesA, imagesB] = [a.images.get(modelA) ?? [], b.images.get(modelB) ?? []];
  const keys = new Set(imagesA.map(keyOf));
  const paired = imagesB.filter((image) => keys.has(keyOf(image))).length;
  if (paired === 0)
    throw new SpindleError(
      'INVALID_ARGUMENT',
      `runs ${a.runId} and ${b.runId}: expected a prompt and seed that both were judged on, ` +
        'got none; runs compare when they use the same evaluation.prompts and evaluation.seed.',
    );
  const skipped: RunComparison['skipped'] = [];
  const metrics = metricsOf(imagesA).flatMap((metric) => {
    const reason = incomparable(metric, a, b, imagesB);
    if (reason !== null) {
      skipped.push({ metric, reason });
      return [];
    }
    return compareMetric(metric, imagesA, imagesB);
  });
  for (const table of [
    metrics.filter(({ category }) => category === ''),
    metrics.filter(({ category }) => category !== ''),
  ]) {
    correctTogether(table.map((one) => one.b_against_a));
    correctTogether(table.flatMap((one) => one.best_of ?? []));
  }
  for (const metric of metricsOf(imagesB))
    if (!metricsOf(imagesA).includes(metric))
      skipped.push({ metric, reason: `${a.runId} has no such metric` });
  return {
    a: { run: a.runId, model: modelA },
    b: { run: b.runId, model: modelB },
    paired,
    only_a: imagesA.length - paired,
    only_b: imagesB.length - paired,
    metrics,
    skipped,
    settings: configDifferences(a.config, b.config),
  };
}

function pick(run: RunFiles, asked: string | undefined, option: string): string {
  const model = asked ?? run.bestModel;
  if (!run.images.has(model))
    throw new SpindleError(
      'INVALID_ARGUMENT',
      `${option}: expected a model of run ${run.runId} ` +
        `(${[...run.images.keys()].join(', ')}), got "${model}".`,
    );
  return model;
}

function metricsOf(images: readonly ImageScores[]): string[] {
  return [...new Set(images.flatMap(({ scores }) => Object.keys(scores)))];
}

/** Scores compare when one judge gave them: the same files, read the same way. */
function incomparable(
  metric: string,
  a: RunFiles,
  b: RunFiles,
  imagesB: readonly ImageScores[],
): string | null {
  if (!metricsOf(imagesB).includes(metric)) return `${b.runId} has no such metric`;
  const [judgeA, judgeB] = [a.judges[metric], b.judges[metric]];
  if (judgeA === undefined || judgeB === undefined) return null;
  if (JSON.stringify(essence(judgeA)) === JSON.stringify(essence(judgeB))) return null;
  return `other judges: ${judgeText(judgeA)} and ${judgeText(judgeB)}`;
}

function essence({ kind, files, scale, preprocess }: Judge): unknown {
  return [kind, files.map(({ digest }) => digest), scale, preprocess];
}

function judgeText({ kind, files, variant, scale, preprocess }: Judge): string {
  return (
    `${kind} ${variant}, ${scale}, ${preprocess}, ` +
    files.map(({ digest }) => digest.slice(0, 15)).join(' ')
  );
}

function compareMetric(
  metric: string,
  imagesA: readonly ImageScores[],
  imagesB: readonly ImageScores[],
): MetricComparison[] {
  // Positions in prompt lists differ from run to run: the text names a prompt.
  const numbers = new Map<string, number>();
  const scored = (images: readonly ImageScores[]): Scored[] =>
    images.flatMap(({ prompt, seed, scores }) => {
      const value = scores[metric];
      if (value === undefined) return [];
      const number = numbers.get(prompt) ?? numbers.size;
      numbers.set(prompt, number);
      return { prompt: number, seed, value };
    });
  const shared = (
    images: readonly ImageScores[],
    others: readonly ImageScores[],
  ): ImageScores[] => {
    const keys = new Set(others.map(keyOf));
    return images.filter((image) => keys.has(keyOf(image)));
  };
  const [bothA, bothB] = [shared(imagesA, imagesB), shared(imagesB, imagesA)];
  const categories = [...new Set(bothA.map(({ category }) => category))].filter(
    (category) => category !== '',
  );
  return ['', ...categories].map((category) => {
    const within = (images: readonly ImageScores[]): Scored[] =>
      scored(category === '' ? images : images.filter((image) => image.category === category));
    const [a, b] = [within(bothA), within(bothB)];
    const summary = summarise(a);
    return {
      metric,
      category,
      a: summary,
      b: summarise(b),
      b_against_a: compare(b, a),
      best_of: summary.imagesPerPrompt > 1 ? compare(b, a, best) : null,
    };
  });
}

function keyOf({ prompt, seed }: ImageScores): string {
  return `${seed}/${prompt}`;
}
