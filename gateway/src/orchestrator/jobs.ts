/**
 * Turns the plan's shards into jobs on the wire. Jobs name what they are about; data and captions
 * stay in the store.
 */
import { join } from 'node:path';
import { create } from '@bufbuild/protobuf';
import {
  EncodeJobSchema,
  ImageTransformSchema,
  JobSchema,
  MetricSpecSchema,
  PromptItemSchema,
  SampleJobSchema,
  SampleRowSchema,
  SamplingSettingsSchema,
  ScoreItemSchema,
  ScoreJobSchema,
  UnetRefSchema,
  type ArtifactRef,
  type Job,
  type JobKind,
  type PromptItem,
  type ScoreJob,
  type SampleRow,
  type SamplingSettings,
  type UnetRef,
} from '@spindle/proto';
import { bucketTable, type ImageSize } from '@spindle/data';
import { SpindleError } from '@spindle/kit';
import { evaluationSampling } from '../config/resolve.js';
import { strengthOf } from '../config/schema/sampling.js';
import type { RunConfig, SamplingConfig } from '../config/schema.js';
import { base, modelName, type Model } from '../domain/model.js';
import { jobKey, judgedSteps, selectMetric, stagesOf, trainedAs } from '../domain/plan.js';
import { shardItems, shardRange, type ShardItem } from '../domain/shards.js';
import { judgedBy, type Stage, type StageKind } from '../domain/stage.js';
import { stageOf, type StoredUnet } from '../domain/state.js';
import { createdMs, type RunRecord } from './record.js';
import type { ResultReader } from './results.js';
import type { RunContext } from './run-context.js';
import { precisionOf, toRef } from './wire.js';

/** A job of a run: a shard of one of its stages. */
export interface ShardOf {
  stage: string;
  shard: number;
}

/** Which queue the jobs of a stage go to; undefined for stages without jobs. */
export function kindOfStage(kind: StageKind): JobKind | undefined {
  switch (kind) {
    case 'encode':
      return 'encode';
    case 'sample':
    case 'judge-sample':
    case 'eval-sample':
      return 'sample';
    case 'score':
    case 'judge-score':
    case 'eval-score':
      return 'score';
    case 'train':
    case 'evaluate':
    case 'report':
      return undefined;
  }
}

/** The stage of that name; INTERNAL where a run has none. */
export function stageNamed(record: RunRecord, name: string): Stage {
  const stage = stagesOf(record.state.plan).find((candidate) => candidate.name === name);
  if (!stage)
    throw new SpindleError('INTERNAL', `run "${record.runId}": no stage is named "${name}".`);
  return stage;
}

/** The job of a shard, from what the run knows now. */
export async function buildJob(
  context: Pick<RunContext, 'record' | 'texts' | 'results'>,
  { stage: name, shard }: ShardOf,
): Promise<Job> {
  const { results } = context;
  const record = context.record();
  const { config, runId } = record;
  const stage = stageNamed(record, name);
  const key = jobKey(runId, name, shard);
  const common = { key, runId, runCreatedMs: createdMs(record) };
  const precision = precisionOf(config.precision);
  switch (stage.kind) {
    case 'encode': {
      const { start, count } = shardRange(record.state.plan, stage, shard);
      const value = create(EncodeJobSchema, {
        manifest: toRef(record.manifest),
        start,
        count,
        pipelinePath: config.model,
        resolution: record.resolution,
        precision,
        ...(reframes(config) && { transform: imageTransform(config) }),
        sizes: bucketSizes(config.data.buckets, record.resolution),
      });
      return create(JobSchema, { ...common, work: { case: 'encode', value } });
    }
    case 'sample': {
      const value = create(SampleJobSchema, {
        unet: drawingRef(record, stage.model),
        pipelinePath: config.model,
        sampling: samplingSettings(config.sampling, record.resolution),
        texts: { case: 'manifest', value: toRef(record.manifest) },
        ...(await trainingRows(record, stage, shard, results)),
        wantLatents: true,
        ...(config.objective.keep_if && { wantImages: true, real: imageTransform(config) }),
        ...(config.sampling.generated === 'pixels' && { pixels: imageTransform(config) }),
        precision,
      });
      return create(JobSchema, { ...common, work: { case: 'sample', value } });
    }
    case 'judge-sample':
    case 'eval-sample': {
      const value = create(SampleJobSchema, {
        unet:
          stage.kind === 'judge-sample'
            ? snapshotRef(record, stage.model, shard)
            : drawingRef(record, stage.model),
        pipelinePath: config.model,
        sampling: samplingSettings(evaluationSampling(config), record.resolution),
        ...(record.prompts && { texts: { case: 'prompts', value: toRef(record.prompts) } }),
        rows: shardItems(record.state.plan, stage, shard, new Set()).map((item) =>
          create(SampleRowSchema, item),
        ),
        wantImages: true,
        precision,
      });
      return create(JobSchema, { ...common, work: { case: 'sample', value } });
    }
    case 'score':
      return create(JobSchema, {
        ...common,
        work: { case: 'score', value: await pairScoreJob(record, stage, shard, results) },
      });
    case 'judge-score':
    case 'eval-score': {
      const sampleKey = jobKey(runId, judgedBy(stage) ?? '', shard);
      const images = (await results.sample(sampleKey)).images;
      const items = promptItems(record, stage, shard, (await context.texts()).prompts);
      if (images.length !== items.length) {
        throw new SpindleError(
          'DATA_LOSS',
          `result ${sampleKey}: images: expected ${items.length}, got ${images.length}.`,
        );
      }
      const chosenBy = selectMetric(record.state.plan);
      const value = create(ScoreJobSchema, {
        metrics: metricSpecs(config).filter(
          ({ name: metric }) => stage.kind === 'eval-score' || metric === chosenBy,
        ),
        items: items.map((prompt, i) =>
          create(ScoreItemSchema, { prompt, ...(images[i] && { image: images[i] }) }),
        ),
      });
      return create(JobSchema, { ...common, work: { case: 'score', value } });
    }
    case 'train':
    case 'evaluate':
    case 'report':
      throw new SpindleError('INTERNAL', `run "${runId}": stage "${name}" has no jobs.`);
  }
}

/** A shard's generated images, then in the same order the real ones, for the judge of keep_if. */
async function pairScoreJob(
  record: RunRecord,
  stage: Stage,
  shard: number,
  results: ResultReader,
): Promise<ScoreJob> {
  const { config, runId, state } = record;
  const key = jobKey(runId, judgedBy(stage) ?? '', shard);
  const { images, realImages, captions } = await results.sample(key);
  const items = shardItems(state.plan, stage, shard, new Set(state.rejected));
  for (const [field, found] of Object.entries({ images, realImages, captions })) {
    if (found.length === items.length) continue;
    throw new SpindleError(
      'DATA_LOSS',
      `result ${key}: ${field}: expected ${items.length}, got ${found.length}.`,
    );
  }
  const scored = [images, realImages].flatMap((side) =>
    items.map(({ index, seed }, n) =>
      create(ScoreItemSchema, {
        prompt: create(PromptItemSchema, { index, seed, prompt: captions[n] ?? '' }),
        ...(side[n] && { image: side[n] }),
      }),
    ),
  );
  const judge = config.objective.keep_if?.metric;
  const metrics = metricSpecs(config).filter(({ name }) => name === judge);
  return create(ScoreJobSchema, { metrics, items: scored });
}

/** Images of a shard of an evaluation; `prompts` are all of the run's. */
export function promptItems(
  record: RunRecord,
  stage: Stage,
  shard: number,
  prompts: readonly string[],
): PromptItem[] {
  const items = shardItems(record.state.plan, stage, shard, new Set());
  return items.map(({ index, seed }) =>
    create(PromptItemSchema, { index, seed, prompt: prompts[index] ?? '' }),
  );
}

/**
 * Images that the opponent draws for a shard of the training rows, and the encoded shards that it
 * draws them from, if it does.
 */
async function trainingRows(
  record: RunRecord,
  stage: Stage,
  shard: number,
  results: ResultReader,
): Promise<{ rows: SampleRow[]; encodedShards: ArtifactRef[] }> {
  const { plan, rejected } = record.state;
  const items = shardItems(plan, stage, shard, new Set(rejected));
  const sizes = record.config.data.buckets
    ? await rowSizes(record, items, results)
    : new Map<number, ImageSize>();
  const rows = items.map(({ index, seed }) =>
    create(SampleRowSchema, { index, seed, ...sizes.get(index) }),
  );
  if (strengthOf(record.config.sampling) === undefined) return { rows, encodedShards: [] };
  const encodedShards: ArtifactRef[] = [];
  for (const one of encodeShardsOf(record, items)) {
    const result = await results.encode(jobKey(record.runId, 'encode', one));
    if (result.shard) encodedShards.push(result.shard);
  }
  return { rows, encodedShards };
}

/** The encode jobs of these rows, in their order. */
function encodeShardsOf(record: RunRecord, rows: readonly ShardItem[]): number[] {
  const { encodeShardSize } = record.state.plan;
  const shards = new Set(rows.map(({ index }) => Math.floor(index / encodeShardSize)));
  return [...shards].sort((a, b) => a - b);
}

/** What encoding made of the rows' images: what is drawn against an image has its size. */
async function rowSizes(
  record: RunRecord,
  rows: readonly ShardItem[],
  results: ResultReader,
): Promise<Map<number, ImageSize>> {
  const encoded = new Set(stageOf(record.state, 'encode').done);
  const sizes = new Map<number, ImageSize>();
  for (const shard of encodeShardsOf(record, rows)) {
    if (!encoded.has(shard)) continue;
    const result = await results.encode(jobKey(record.runId, 'encode', shard));
    for (const { index, height, width } of result.sizes) sizes.set(index, { height, width });
  }
  return sizes;
}

/** The sizes of a config's buckets; none without. */
export function bucketSizes(
  buckets: RunConfig['data']['buckets'],
  resolution: number,
): ImageSize[] {
  return buckets
    ? bucketTable(resolution, { step: buckets.step, maxRatio: buckets.max_ratio })
    : [];
}

/**
 * The U-Net of a model of this run: the pipeline's own for the base, else the two blobs that
 * training left.
 */
export function unetRef(record: RunRecord, model: Model): UnetRef {
  if (model.kind === 'base')
    return create(UnetRefSchema, {
      name: modelName(base),
      path: join(record.config.model, 'unet'),
    });
  return storedRef(modelName(model), storedUnet(record, model));
}

/** What training left of a model; `ema<k>` is the moving average of `spin<k>`. */
export function storedUnet(record: RunRecord, model: Model): StoredUnet {
  const training = record.state.training[modelName(trainedAs(model))];
  const unet = model.kind === 'ema' ? training?.average : training?.unet;
  if (!unet)
    throw new SpindleError(
      'INTERNAL',
      `run "${record.runId}": model "${modelName(model)}" is not trained yet.`,
    );
  return unet;
}

/**
 * Who draws the images of a model: the moving average of its weights where the config asks for
 * that.
 */
function drawingRef(record: RunRecord, model: Model): UnetRef {
  const name = modelName(model);
  const average = record.config.sampling.ema ? record.state.training[name]?.average : undefined;
  return average ? storedRef(name, average) : unetRef(record, model);
}

/** The same of what its training left after a judged step. */
function snapshotRef(record: RunRecord, model: Model, shard: number): UnetRef {
  const { plan, training } = record.state;
  const step = judgedSteps(plan, model)[shard] ?? 0;
  const name = `${modelName(model)}-step-${step}`;
  const snapshot = training[modelName(model)]?.snapshots?.[step];
  if (!snapshot)
    throw new SpindleError('INTERNAL', `run "${record.runId}": nothing was left of ${name}.`);
  const { unet, average } = snapshot;
  return storedRef(name, record.config.sampling.ema && average ? average : unet);
}

function storedRef(name: string, { config, weights }: StoredUnet): UnetRef {
  return create(UnetRefSchema, { name, config: toRef(config), weights: toRef(weights) });
}

/** How images are drawn, as messages say it. */
export function samplingSettings(sampling: SamplingConfig, resolution: number): SamplingSettings {
  const strength = strengthOf(sampling);
  return create(SamplingSettingsSchema, {
    scheduler: sampling.scheduler ?? '',
    schedulerOverridesJson:
      Object.keys(sampling.overrides).length > 0 ? JSON.stringify(sampling.overrides) : '',
    steps: sampling.steps,
    guidanceScale: sampling.guidance_scale,
    eta: sampling.eta,
    height: resolution,
    width: resolution,
    ...(strength !== undefined && { strength }),
  });
}

function reframes({ data }: RunConfig): boolean {
  return data.resize !== 'bilinear' || data.crop !== 'center' || data.flip || data.views > 1;
}

function imageTransform({ data, seed }: RunConfig) {
  return create(ImageTransformSchema, {
    filter: data.resize,
    randomCrop: data.crop === 'random',
    flip: data.flip,
    views: data.views,
    seed: BigInt(seed),
  });
}

/** The judges of a config, as messages say them. */
export function metricSpecs(config: RunConfig) {
  return (config.evaluation?.metrics ?? []).map((metric) =>
    create(MetricSpecSchema, {
      name: metric.name,
      kind: metric.kind,
      clipPath: metric.model,
      headPath: metric.head ?? '',
      tokenizerPath: metric.tokenizer ?? '',
      // Stable Diffusion's text encoder is a CLIP: its vocabulary is every CLIP judge's.
      fallbackTokenizerPath: metric.kind === 'image_reward' ? '' : join(config.model, 'tokenizer'),
      preprocess: metric.preprocess ?? '',
      scale: metric.scale ?? 0,
      variant: metric.variant ?? '',
    }),
  );
}
