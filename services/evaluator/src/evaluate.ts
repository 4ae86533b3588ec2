/** Scores out of the store, statistics out of scores. */
import { create, fromJsonString } from '@bufbuild/protobuf';
import { SpindleError, type ArtifactStore } from '@spindle/kit';
import {
  JobResultSchema,
  MetricStatisticsSchema,
  ModelStatisticsSchema,
  type ArtifactRef,
  type JobResult,
  type ModelEvaluation,
  type ModelStatistics,
} from '@spindle/proto';
import { statistics, type Scored, type Statistics } from './domain/statistics.js';

export interface JudgedModel {
  name: string;
  metrics: { metric: string; statistics: Statistics }[];
}

export async function evaluate(models: readonly ModelEvaluation[], store: ArtifactStore): Promise<JudgedModel[]> {
  if (models.length === 0) throw new SpindleError('INVALID_ARGUMENT', 'models: expected at least the base, got none');
  const scores = await Promise.all(models.map((model) => readScores(model, store)));
  const base = scores[0] ?? new Map<string, Scored[]>();
  return models.map((model, position) => ({
    name: model.model,
    metrics: [...(scores[position] ?? [])].map(([metric, own]) => {
      const reference = base.get(metric);
      if (reference === undefined)
        throw new SpindleError(
          'INVALID_ARGUMENT',
          `${model.model}: metric ${metric}: expected scores of ${models[0]?.model ?? 'the base'} too, got none`,
        );
      return { metric, statistics: compare(model.model, metric, own, position === 0 ? null : reference) };
    }),
  }));
}

function compare(model: string, metric: string, own: readonly Scored[], base: readonly Scored[] | null): Statistics {
  try {
    return statistics(own, base);
  } catch (cause) {
    throw new SpindleError('INVALID_ARGUMENT', `${model}: metric ${metric}: ${(cause as Error).message}`, { cause });
  }
}

async function readScores(model: ModelEvaluation, store: ArtifactStore): Promise<Map<string, Scored[]>> {
  const values = new Map<string, number[]>();
  for (const key of model.scoreKeys) {
    const { result } = await readResult(key, store);
    if (result.case !== 'score')
      throw new SpindleError('INVALID_ARGUMENT', `${key}: expected the result of a score job, got ${result.case ?? 'nothing'}`);
    for (const { metric, values: shard } of result.value.scores) values.set(metric, [...(values.get(metric) ?? []), ...shard]);
  }
  const scored = new Map<string, Scored[]>();
  for (const [metric, list] of values) {
    if (list.length !== model.items.length) {
      throw new SpindleError(
        'INVALID_ARGUMENT',
        `${model.model}: metric ${metric}: expected ${model.items.length} scores (one per item), got ${list.length}`,
      );
    }
    scored.set(
      metric,
      list.map((value, i) => ({ prompt: model.items[i]?.prompt?.index ?? i, seed: model.items[i]?.prompt?.seed ?? 0n, value })),
    );
  }
  return scored;
}

/** Images of a model, in the items' order. */
export async function readImages(model: ModelEvaluation, store: ArtifactStore): Promise<ArtifactRef[]> {
  const images: ArtifactRef[] = [];
  for (const key of model.sampleKeys) {
    const { result } = await readResult(key, store);
    if (result.case !== 'sample')
      throw new SpindleError('INVALID_ARGUMENT', `${key}: expected the result of a sample job, got ${result.case ?? 'nothing'}`);
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
  const json = await store.getResult(key);
  if (json === null) throw new SpindleError('NOT_FOUND', `${key}: expected a committed result, got none`);
  return fromJsonString(JobResultSchema, json);
}

export function toProto(models: readonly JudgedModel[]): ModelStatistics[] {
  return models.map(({ name, metrics }) =>
    create(ModelStatisticsSchema, {
      model: name,
      metrics: metrics.map(({ metric, statistics: s }) => create(MetricStatisticsSchema, { metric, ...s })),
    }),
  );
}
