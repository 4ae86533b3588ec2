/** Scores out of the store, statistics out of scores. */
import { create } from '@bufbuild/protobuf';
import {
  best,
  compare,
  levelWithItself,
  SpindleError,
  summarise,
  type Comparison,
} from '@spindle/kit';
import { readJobResult, type ArtifactStore } from '@spindle/mesh';
import {
  MetricStatisticsSchema,
  ModelStatisticsSchema,
  type ArtifactRef,
  type JobResult,
  type JudgeInfo,
  type ModelEvaluation,
  type ModelStatistics,
} from '@spindle/proto';
import { correctTogether, type Against } from '@spindle/kit/domain';
import { chooseImages } from './choose-images.js';
import { chooseInSets, inSet, setsOf, type InSet } from './sets.js';
import type { Chosen } from './domain/chosen.js';
import type { BestAgainst, Judge, Selection, Statistics } from './domain/statistics.js';

/** One number of one image. */
export interface ImageScore extends InSet {
  category: string;
}

export interface JudgedMetric {
  metric: string;
  statistics: Statistics;
  /** Over the prompts that models are chosen by; null where they are chosen by all. */
  selection: Selection | null;
  /** Per category, in the order in which they first occur; empty for prompts without. */
  categories: { category: string; statistics: Statistics }[];
  /** Per named set of prompts; empty where there is one without a name. */
  sets: { set: string; statistics: Statistics }[];
}

export interface JudgedModel {
  name: string;
  metrics: JudgedMetric[];
}

export interface Evaluation {
  models: JudgedModel[];
  /** By metric. */
  judges: Record<string, Judge>;
  best: BestAgainst[];
  chosen: Chosen | null;
  chosenInSets: { set: string; chosen: Chosen }[];
  warnings: string[];
  /** By model and metric, in the items' order. */
  scores: Map<string, ImageScore[]>[];
}

/** `average`: the metrics whose average chooses one image per prompt; empty: all. */
export async function evaluate(
  models: readonly ModelEvaluation[],
  store: ArtifactStore,
  average: readonly string[] = [],
): Promise<Evaluation> {
  if (models.length === 0)
    throw new SpindleError('INVALID_ARGUMENT', 'models: expected at least the base, got none');
  const read = await Promise.all(models.map((model) => readScores(model, store)));
  const scores = read.map((one) => one.scores);
  const base = scores[0] ?? new Map<string, ImageScore[]>();
  const judged = models.map((model, position) => ({
    name: model.model,
    metrics: [...(scores[position] ?? [])].map(([metric, own]) => {
      const select = read[position]?.select.get(metric) ?? [];
      const reference = base.get(metric);
      if (reference === undefined)
        throw new SpindleError(
          'INVALID_ARGUMENT',
          `${model.model}: metric ${metric}: expected scores of ` +
            `${models[0]?.model ?? 'the base'} too, got none`,
        );
      return {
        ...judgedMetric(model.model, metric, own, position === 0 ? null : reference),
        selection: selectionOf(select),
      };
    }),
  }));
  correct(judged);
  const { judges, warnings } = sameJudges(models, read);
  const scored = models.map(({ model }, i) => ({
    name: model,
    scores: scores[i] ?? new Map<string, ImageScore[]>(),
  }));
  return {
    ...{ models: judged, judges, warnings, scores },
    best: bestAgainst(judged, scores),
    chosen: chooseImages(scored, average),
    chosenInSets: chooseInSets(scored, average),
  };
}

function judgedMetric(
  model: string,
  metric: string,
  own: readonly ImageScore[],
  base: readonly ImageScore[] | null,
): Omit<JudgedMetric, 'selection'> {
  const where = `${model}: metric ${metric}`;
  const categories = [...new Set(own.map(({ category }) => category))].filter(
    (category) => category !== '',
  );
  const of = (scores: readonly ImageScore[], category: string): ImageScore[] =>
    scores.filter((score) => score.category === category);
  return {
    metric,
    statistics: statistics(where, own, base),
    categories: categories.map((category) => ({
      category,
      statistics: statistics(
        `${where}: category ${category}`,
        of(own, category),
        base && of(base, category),
      ),
    })),
    sets: setsOf(own).map((set) => ({
      set,
      statistics: statistics(`${where}: set ${set}`, inSet(own, set), base && inSet(base, set)),
    })),
  };
}

function selectionOf(scores: readonly ImageScore[]): Selection | null {
  if (scores.length === 0) return null;
  const { mean, n } = summarise(scores);
  return { mean, n };
}

/** A report says many things at once: each of its tables answers for all that it says. */
function correct([, ...models]: readonly JudgedModel[]): void {
  const metrics = models.flatMap((model) => model.metrics);
  for (const table of [
    metrics,
    metrics.flatMap(({ categories }) => categories),
    metrics.flatMap(({ sets }) => sets),
  ]) {
    correctTogether(table.map(({ statistics }) => statistics));
    correctTogether(table.flatMap(({ statistics }) => statistics.bestOf ?? []));
  }
}

function statistics(
  where: string,
  own: readonly ImageScore[],
  base: readonly ImageScore[] | null,
): Statistics {
  const { bestMean, imagesPerPrompt, ...summary } = summarise(own);
  const against = (of?: typeof best): Against => {
    if (base === null) return without(levelWithItself(summary.n));
    try {
      return without(compare(own, base, of));
    } catch (cause) {
      throw new SpindleError('INVALID_ARGUMENT', `${where}: ${(cause as Error).message}`, {
        cause,
      });
    }
  };
  return {
    ...summary,
    ...against(),
    bestOf:
      imagesPerPrompt > 1 ? { ...against(best), images: imagesPerPrompt, mean: bestMean } : null,
  };
}

/** A comparison's prompts may be fewer than the model's own: n is the latter. */
function without({ n: _n, ...against }: Comparison): Against {
  return against;
}

/** Whether the model that the first judge likes best can be told from each of the others. */
function bestAgainst(
  models: readonly JudgedModel[],
  scores: readonly Map<string, ImageScore[]>[],
): BestAgainst[] {
  const metric = models[0]?.metrics[0]?.metric;
  if (metric === undefined) return [];
  const means = models.map(
    (model) =>
      model.metrics.find((one) => one.metric === metric)?.statistics.mean ??
      Number.NEGATIVE_INFINITY,
  );
  const top = means.indexOf(Math.max(...means));
  const own = scores[top]?.get(metric) ?? [];
  const against = models.flatMap((model, position) => {
    const other = scores[position]?.get(metric) ?? [];
    const shared = new Set(other.map(({ prompt, seed }) => `${prompt}/${seed}`));
    if (position === top || !own.some(({ prompt, seed }) => shared.has(`${prompt}/${seed}`)))
      return [];
    return {
      metric,
      best: models[top]?.name ?? '',
      model: model.name,
      ...without(compare(own, other)),
    };
  });
  correctTogether(against);
  return against;
}

/**
 * One judge per metric; scores of different files under one name do not compare, which the report
 * then says.
 */
function sameJudges(
  models: readonly ModelEvaluation[],
  read: readonly ModelScores[],
): Pick<Evaluation, 'judges' | 'warnings'> {
  const judges: Record<string, Judge> = {};
  const warnings = new Set<string>();
  for (const [position, { judges: own }] of read.entries()) {
    for (const { metric, judge } of own) {
      const first = (judges[metric] ??= judge);
      if (JSON.stringify(first) !== JSON.stringify(judge))
        warnings.add(
          `metric ${metric}: ${models[position]?.model ?? ''} was judged by ` +
            `${judgeText(judge)}, others by ${judgeText(first)}: the judge's files changed ` +
            'during the run, so its scores do not compare.',
        );
    }
  }
  return { judges, warnings: [...warnings] };
}

function judgeText({ files, variant }: Judge): string {
  return (
    `${variant} ` +
    `(${files.map(({ name, digest }) => `${name} ${digest.slice(0, 15)}…`).join(', ')})`
  );
}

interface ModelScores {
  /** Of what is reported, and of what models are chosen by. */
  scores: Map<string, ImageScore[]>;
  select: Map<string, ImageScore[]>;
  judges: { metric: string; judge: Judge }[];
}

async function readScores(model: ModelEvaluation, store: ArtifactStore): Promise<ModelScores> {
  const values = new Map<string, number[]>();
  const judges: ModelScores['judges'] = [];
  for (const key of model.scoreKeys) {
    const { result } = await readResult(key, store);
    if (result.case !== 'score')
      throw new SpindleError(
        'INVALID_ARGUMENT',
        `${key}: expected the result of a score job, got ${result.case ?? 'nothing'}`,
      );
    for (const { metric, values: shard, judge } of result.value.scores) {
      values.set(metric, [...(values.get(metric) ?? []), ...shard]);
      if (judge !== undefined) judges.push({ metric, judge: toJudge(judge) });
    }
  }
  const scores = new Map<string, ImageScore[]>();
  const select = new Map<string, ImageScore[]>();
  for (const [metric, list] of values) {
    if (list.length !== model.items.length) {
      throw new SpindleError(
        'INVALID_ARGUMENT',
        `${model.model}: metric ${metric}: expected ${model.items.length} scores (one per ` +
          `item), got ${list.length}`,
      );
    }
    const all = list.map((value, i) => {
      const item = model.items[i];
      return {
        prompt: item?.prompt?.index ?? i,
        seed: item?.prompt?.seed ?? 0n,
        category: item?.category ?? '',
        set: item?.set ?? '',
        value,
      };
    });
    scores.set(metric, reported(model, all));
    select.set(
      metric,
      all.filter((_, i) => model.items[i]?.select),
    );
  }
  return { scores, select, judges };
}

function toJudge({ kind, files, variant, scale, preprocess }: JudgeInfo): Judge {
  return {
    kind,
    files: files.map(({ name, digest }) => ({ name, digest })),
    variant,
    scale,
    preprocess,
  };
}

/** Those of a list with an entry per item that the report has. */
export function reported<T>({ items }: ModelEvaluation, list: readonly T[]): T[] {
  return list.filter((_, i) => items[i]?.select !== true);
}

/** Images of a model, in the items' order. */
export async function readImages(
  model: ModelEvaluation,
  store: ArtifactStore,
): Promise<ArtifactRef[]> {
  const images: ArtifactRef[] = [];
  for (const key of model.sampleKeys) {
    const { result } = await readResult(key, store);
    if (result.case !== 'sample')
      throw new SpindleError(
        'INVALID_ARGUMENT',
        `${key}: expected the result of a sample job, got ${result.case ?? 'nothing'}`,
      );
    images.push(...result.value.images);
  }
  if (images.length !== model.items.length && model.sampleKeys.length > 0) {
    throw new SpindleError(
      'INVALID_ARGUMENT',
      `${model.model}: expected ${model.items.length} images (one per item), got ${images.length}`,
    );
  }
  return images;
}

async function readResult(key: string, store: ArtifactStore): Promise<JobResult> {
  const result = await readJobResult(key, store);
  if (result === null)
    throw new SpindleError('NOT_FOUND', `${key}: expected a committed result, got none`);
  return result;
}

export function toProto(models: readonly JudgedModel[]): ModelStatistics[] {
  return models.map(({ name, metrics }) =>
    create(ModelStatisticsSchema, {
      model: name,
      metrics: metrics.map(({ metric, statistics: s, selection }) =>
        create(MetricStatisticsSchema, {
          metric,
          mean: s.mean,
          median: s.median,
          standardError: s.standardError,
          winRate: s.winRate,
          differenceLow: s.differenceLow,
          differenceHigh: s.differenceHigh,
          n: s.n,
          ...(selection && { select: selection }),
        }),
      ),
    }),
  );
}
