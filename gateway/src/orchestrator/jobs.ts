/** Turns the plan's shards into jobs on the wire. */
import { join } from 'node:path';
import { create } from '@bufbuild/protobuf';
import {
  EncodeJobSchema,
  ImageTransformSchema,
  JobSchema,
  MetricSpecSchema,
  PromptItemSchema,
  SampleJobSchema,
  SamplingSettingsSchema,
  ScoreItemSchema,
  ScoreJobSchema,
  UnetRefSchema,
  type Job,
  type JobKind,
  type PromptItem,
  type SamplingSettings,
  type UnetRef,
} from '@spindle/proto';
import { bucketTable, type ImageSize } from '@spindle/data';
import { SpindleError } from '@spindle/kit';
import { evaluationSampling } from '../config/resolve.js';
import type { RunConfig, SamplingConfig } from '../config/schema.js';
import { jobKey, stagesOf, trainedAs, type Stage, type StageKind } from '../domain/plan.js';
import { shardItems, shardRange } from '../domain/shards.js';
import { stageOf, type StoredUnet } from '../domain/state.js';
import type { RunRecord } from './record.js';
import type { ResultReader } from './results.js';
import { precisionOf, toRef } from './wire.js';

/** Captions of the training rows, read where they lie, and held-out prompts. */
export interface RunTexts {
  captions(start: number, count: number): Promise<string[]>;
  prompts: string[];
  /** Of the prompts; empty texts without. */
  categories: string[];
}

export function kindOfStage(kind: StageKind): JobKind | undefined {
  switch (kind) {
    case 'encode':
      return 'encode';
    case 'sample':
    case 'eval-sample':
      return 'sample';
    case 'eval-score':
      return 'score';
    case 'train':
    case 'evaluate':
    case 'report':
      return undefined;
  }
}

export function stageNamed(record: RunRecord, name: string): Stage {
  const stage = stagesOf(record.state.plan).find((candidate) => candidate.name === name);
  if (!stage)
    throw new SpindleError('INTERNAL', `run "${record.runId}": no stage is named "${name}".`);
  return stage;
}

export async function buildJob(
  record: RunRecord,
  name: string,
  shard: number,
  texts: RunTexts,
  results: ResultReader,
): Promise<Job> {
  const { config, runId } = record;
  const stage = stageNamed(record, name);
  const key = jobKey(runId, name, shard);
  const precision = precisionOf(config.precision);
  const { start, count } = shardRange(record.state.plan, stage, shard);
  switch (stage.kind) {
    case 'encode': {
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
      return create(JobSchema, { key, runId, work: { case: 'encode', value } });
    }
    case 'sample':
    case 'eval-sample': {
      const evaluating = stage.kind === 'eval-sample';
      const value = create(SampleJobSchema, {
        unet: drawingRef(record, stage.model),
        pipelinePath: config.model,
        sampling: samplingSettings(
          evaluating ? evaluationSampling(config) : config.sampling,
          record.resolution,
        ),
        items: evaluating
          ? promptItems(record, stage, shard, texts.prompts)
          : await captionItems(record, stage, shard, texts, results),
        wantLatents: !evaluating,
        ...(!evaluating &&
          config.sampling.generated === 'pixels' && { pixels: imageTransform(config) }),
        wantImages: evaluating,
        precision,
      });
      return create(JobSchema, { key, runId, work: { case: 'sample', value } });
    }
    case 'eval-score': {
      const sampleKey = jobKey(runId, `eval-sample-${stage.model}`, shard);
      const images = (await results.sample(sampleKey)).images;
      const items = promptItems(record, stage, shard, texts.prompts);
      if (images.length !== items.length) {
        throw new SpindleError(
          'DATA_LOSS',
          `result ${sampleKey}: images: expected ${items.length}, got ${images.length}.`,
        );
      }
      const value = create(ScoreJobSchema, {
        metrics: metricSpecs(config),
        items: items.map((prompt, i) =>
          create(ScoreItemSchema, { prompt, ...(images[i] && { image: images[i] }) }),
        ),
      });
      return create(JobSchema, { key, runId, work: { case: 'score', value } });
    }
    case 'train':
    case 'evaluate':
    case 'report':
      throw new SpindleError('INTERNAL', `run "${runId}": stage "${name}" has no jobs.`);
  }
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

/** Images that the opponent draws for a shard of the training rows. */
async function captionItems(
  record: RunRecord,
  stage: Stage,
  shard: number,
  texts: RunTexts,
  results: ResultReader,
): Promise<PromptItem[]> {
  const { plan, rejected } = record.state;
  const { start, count } = shardRange(plan, stage, shard);
  const captions = await texts.captions(start, count);
  const sizes = record.config.data.buckets
    ? await rowSizes(record, start, count, results)
    : new Map<number, ImageSize>();
  return shardItems(plan, stage, shard, new Set(rejected)).map(({ index, seed }) =>
    create(PromptItemSchema, {
      index,
      seed,
      prompt: captions[index - start] ?? '',
      ...sizes.get(index),
    }),
  );
}

/**
 * What encoding made of the images of rows [start, start + count): what is drawn against an image
 * has its size.
 */
async function rowSizes(
  record: RunRecord,
  start: number,
  count: number,
  results: ResultReader,
): Promise<Map<number, ImageSize>> {
  const { encodeShardSize } = record.state.plan;
  const encoded = new Set(stageOf(record.state, 'encode').done);
  const sizes = new Map<number, ImageSize>();
  for (
    let shard = Math.floor(start / encodeShardSize);
    shard * encodeShardSize < start + count;
    shard++
  ) {
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
export function unetRef(record: RunRecord, model: string): UnetRef {
  if (model === 'base')
    return create(UnetRefSchema, { name: 'base', path: join(record.config.model, 'unet') });
  const unet = storedUnet(record, model);
  return create(UnetRefSchema, {
    name: model,
    config: toRef(unet.config),
    weights: toRef(unet.weights),
  });
}

/** What training left of a model; `ema<k>` is the moving average of `spin<k>`. */
export function storedUnet(record: RunRecord, model: string): StoredUnet {
  const training = record.state.training[trainedAs(model)];
  const unet = trainedAs(model) === model ? training?.unet : training?.average;
  if (!unet)
    throw new SpindleError(
      'INTERNAL',
      `run "${record.runId}": model "${model}" is not trained yet.`,
    );
  return unet;
}

/**
 * Who draws the images of a model: the moving average of its weights where the config asks for
 * that.
 */
function drawingRef(record: RunRecord, model: string): UnetRef {
  const average = record.config.sampling.ema ? record.state.training[model]?.average : undefined;
  return average
    ? create(UnetRefSchema, {
        name: model,
        config: toRef(average.config),
        weights: toRef(average.weights),
      })
    : unetRef(record, model);
}

export function samplingSettings(sampling: SamplingConfig, resolution: number): SamplingSettings {
  return create(SamplingSettingsSchema, {
    scheduler: sampling.scheduler ?? '',
    schedulerOverridesJson:
      Object.keys(sampling.overrides).length > 0 ? JSON.stringify(sampling.overrides) : '',
    steps: sampling.steps,
    guidanceScale: sampling.guidance_scale,
    eta: sampling.eta,
    height: resolution,
    width: resolution,
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
