/** Scores of images by any number of metrics; one CLIP forward per image and CLIP model. */
import { create } from '@bufbuild/protobuf';
import { SpindleError, type ArtifactStore } from '@spindle/kit';
import { ModelCache, type RgbImage } from '@spindle/native';
import { MetricScoresSchema, type MetricScores, type MetricSpec, type ScoreItem } from '@spindle/proto';
import { checkMetrics, groupByClip, type Metric } from './domain/metrics.js';
import type { LoadedClip, LoadedHead, ScorerEngine } from './engine.js';

const clipsKept = 2;
const headsKept = 4;
const imagesPerCall = 32;

export class Scorer {
  readonly #engine: ScorerEngine;
  readonly #store: ArtifactStore;
  readonly #clips = new ModelCache<LoadedClip>(clipsKept);
  readonly #heads = new ModelCache<LoadedHead>(headsKept);

  constructor(engine: ScorerEngine, store: ArtifactStore) {
    this.#engine = engine;
    this.#store = store;
  }

  async score(specs: readonly MetricSpec[], items: readonly ScoreItem[], signal: AbortSignal): Promise<MetricScores[]> {
    const metrics = check(specs);
    if (items.length === 0) throw new SpindleError('INVALID_ARGUMENT', 'items: expected at least one image, got none');
    const values = new Map<string, number[]>(metrics.map((metric) => [metric.name, []]));
    for (let from = 0; from < items.length; from += imagesPerCall) {
      const batch = items.slice(from, from + imagesPerCall);
      const images = await Promise.all(batch.map((item, n) => this.#read(item, from + n)));
      const prompts = batch.map((item) => item.prompt?.prompt ?? '');
      for (const [clipPath, group] of groupByClip(metrics)) {
        signal.throwIfAborted();
        const scores = await this.#clips.use(
          clipPath,
          () => this.#engine.loadClip(clipPath),
          (clip) => this.#judge(clip, group, images, prompts),
        );
        for (const [name, batchValues] of scores) values.get(name)?.push(...batchValues);
      }
    }
    return metrics.map((metric) =>
      create(MetricScoresSchema, { metric: metric.name, values: checkFinite(metric.name, values.get(metric.name) ?? []) }),
    );
  }

  release(): void {
    this.#clips.clear();
    this.#heads.clear();
  }

  async #judge(
    clip: LoadedClip,
    metrics: readonly Metric[],
    images: readonly RgbImage[],
    prompts: readonly string[],
  ): Promise<[string, ArrayLike<number> & Iterable<number>][]> {
    const embeds = await clip.embedImages(images);
    const scores: [string, ArrayLike<number> & Iterable<number>][] = [];
    for (const { name, kind, headPath } of metrics) {
      if (kind === 'clip') scores.push([name, await clip.score(embeds, prompts)]);
      else
        scores.push([
          name,
          await this.#heads.use(
            headPath,
            () => this.#engine.loadHead(headPath),
            (head) => head.score(embeds),
          ),
        ]);
    }
    return scores;
  }

  async #read(item: ScoreItem, index: number): Promise<RgbImage> {
    if (item.image === undefined) throw new SpindleError('INVALID_ARGUMENT', `items[${index}].image: expected an artifact, got nothing`);
    return this.#engine.readImage(await this.#store.get(item.image), `items[${index}] (${item.image.digest})`);
  }
}

function check(specs: readonly MetricSpec[]): Metric[] {
  try {
    return checkMetrics(specs);
  } catch (cause) {
    throw new SpindleError('INVALID_ARGUMENT', (cause as Error).message, { cause });
  }
}

/** A score that is no number would poison every mean it enters. */
function checkFinite(metric: string, values: readonly number[]): number[] {
  const at = values.findIndex((value) => !Number.isFinite(value));
  if (at >= 0) throw new SpindleError('DIVERGED', `metric ${metric}: expected a finite score, got ${values[at]} for items[${at}]`);
  return [...values];
}
