/**
 * Scores of images by any number of metrics; one forward per image, model and way of preprocessing.
 */
import { totalmem } from 'node:os';
import { create } from '@bufbuild/protobuf';
import { SpindleError } from '@spindle/kit';
import { checkRunFiles, unchanged, type ArtifactStore } from '@spindle/mesh';
import { headFiles, judgeFiles, ModelCache } from '@spindle/models';
import { type RgbImage } from '@spindle/native';
import {
  MetricScoresSchema,
  type MetricScores,
  type MetricSpec,
  type ScoreItem,
} from '@spindle/proto';
import { checkMetrics, groupByModel, type Metric } from './domain/metrics.js';
import type { HeadSource, Judged, LoadedHead, LoadedModel, ScorerEngine } from './engine.js';

/**
 * Half of the memory in models of the largest kind, a CLIP ViT-H in float32: loading one takes as
 * long as judging hundreds of images.
 */
const largestModelBytes = 4 * 1024 ** 3;
const modelsKept = Math.min(8, Math.max(2, Math.floor(totalmem() / 2 / largestModelBytes)));
const headsKept = 4;
const imagesPerCall = 32;

interface ScoreRequest {
  runId: string;
  specs: readonly MetricSpec[];
  items: readonly ScoreItem[];
}

/** Metrics of one model, and the files that it is read from. */
interface JudgeGroup {
  /** Another one for other files. */
  key: string;
  metrics: readonly Metric[];
  files: readonly string[];
  state: string;
  runId: string;
}

export class Scorer {
  readonly #engine: ScorerEngine;
  readonly #store: ArtifactStore;
  readonly #models: ModelCache<LoadedModel>;
  readonly #heads = new ModelCache<LoadedHead>(headsKept);

  /** `kept`: how many models stay in memory. */
  constructor(engine: ScorerEngine, store: ArtifactStore, kept = modelsKept) {
    this.#models = new ModelCache(kept);
    this.#engine = engine;
    this.#store = store;
  }

  /**
   * `runId`: the run that asks, whose judges' files must stay what they were (FAILED_PRECONDITION);
   * "" for none.
   */
  async score({ runId, specs, items }: ScoreRequest, signal: AbortSignal): Promise<MetricScores[]> {
    const metrics = check(specs);
    if (items.length === 0)
      throw new SpindleError('INVALID_ARGUMENT', 'items: expected at least one image, got none');
    const values = new Map<string, number[]>(metrics.map((metric) => [metric.name, []]));
    const judges = new Map<string, Judged['judge']>();
    const groups: JudgeGroup[] = [];
    for (const [key, group] of groupByModel(metrics))
      groups.push(await this.#checked(key, group, runId));
    // Model by model, those in memory first: with more models than there is room for, each is
    // loaded once per job at most.
    const loaded = new Set(this.#models.keys());
    groups.sort((a, b) => Number(loaded.has(b.key)) - Number(loaded.has(a.key)));
    for (const group of groups) {
      for (let from = 0; from < items.length; from += imagesPerCall) {
        signal.throwIfAborted();
        const batch = items.slice(from, from + imagesPerCall);
        const images = await Promise.all(batch.map((item, n) => this.#read(item, from + n)));
        const prompts = batch.map((item) => item.prompt?.prompt ?? '');
        const judged = await this.#judge(group, images, prompts);
        group.metrics.forEach(({ name }, n) => {
          const one = judged[n];
          if (one === undefined) return;
          values.get(name)?.push(...one.values);
          judges.set(name, one.judge);
        });
      }
    }
    return metrics.map(({ name }) => {
      const judge = judges.get(name);
      return create(MetricScoresSchema, {
        metric: name,
        values: checkFinite(name, values.get(name) ?? []),
        ...(judge && { judge }),
      });
    });
  }

  release(): void {
    this.#models.clear();
    this.#heads.clear();
  }

  /** The files of a group's model are those that the run began with. */
  async #checked(key: string, metrics: readonly Metric[], runId: string): Promise<JudgeGroup> {
    const [first] = metrics;
    const files = first === undefined ? [] : judgeFiles(first);
    const state = await checkRunFiles(this.#store, runId, partOf(first), files);
    return { key: `${key} ${state}`, metrics, files, state, runId };
  }

  /** Scores by each metric of a group. */
  #judge(
    { key, metrics, files, state, runId }: JudgeGroup,
    images: readonly RgbImage[],
    prompts: readonly string[],
  ): Promise<Judged[]> {
    const [first] = metrics;
    if (first === undefined) return Promise.resolve([]);
    return this.#models.use(
      key,
      () => unchanged(files, state, () => this.#engine.loadModel(first)),
      (model) => model.judge(metrics, images, prompts, this.#headsOf(runId)),
    );
  }

  #headsOf(runId: string): HeadSource {
    return async (path, work) => {
      const files = headFiles(path);
      const state = await checkRunFiles(this.#store, runId, `head ${path}`, files);
      return this.#heads.use(
        `${path} ${state}`,
        () => unchanged(files, state, () => this.#engine.loadHead(path)),
        work,
      );
    };
  }

  async #read(item: ScoreItem, index: number): Promise<RgbImage> {
    if (item.image === undefined)
      throw new SpindleError(
        'INVALID_ARGUMENT',
        `items[${index}].image: expected an artifact, got nothing`,
      );
    return this.#engine.readImage(
      await this.#store.get(item.image),
      `items[${index}] (${item.image.digest})`,
    );
  }
}

/** Names a model by what its files are found from. */
function partOf(metric: Metric | undefined): string {
  if (metric === undefined) return 'judge';
  const { kind, clipPath, tokenizerPath, fallbackTokenizerPath } = metric;
  const family = kind === 'image_reward' ? 'ImageReward' : 'CLIP';
  return [`judge: ${family} ${clipPath}`, tokenizerPath, fallbackTokenizerPath]
    .filter((path) => path !== '')
    .join(', ');
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
  if (at >= 0)
    throw new SpindleError(
      'DIVERGED',
      `metric ${metric}: expected a finite score, got ${values[at]} for items[${at}]`,
    );
  return [...values];
}
