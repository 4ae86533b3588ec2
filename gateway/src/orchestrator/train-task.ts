/**
 * One training, as seen from the gateway: a call that is repeated until the trainer has said how it
 * ends.
 */
import { create } from '@bufbuild/protobuf';
import {
  LeftOutImagesSchema,
  ShardsToComeSchema,
  UnetRefSchema,
  type LeftOutImages,
  type UnetRef,
  numbersOf,
  TrainRequestSchema,
  Objective,
  type ArtifactRef,
  type StepNumbers,
  type TrainFinished,
  type TrainRequest,
} from '@spindle/proto';
import { delay, ensureError, SpindleError, type Logger } from '@spindle/kit';
import { dpoTraining, sftTraining, spinTraining } from '../config/resolve.js';
import type { TrainConfig } from '../config/schema.js';
import { leftOut, type KeepIf } from '../domain/keep-if.js';
import { isEarly } from '../domain/early-start.js';
import { base, iterationOf, modelName, sameModel, spin, type Model } from '../domain/model.js';
import { imagesPerJob, initOf, jobKey, opponentOf, trainKey } from '../domain/plan.js';
import { shardItems, shardSize } from '../domain/shards.js';
import { stageName } from '../domain/stage.js';
import { stageOf } from '../domain/state.js';
import { stageNamed, storedUnet, unetRef } from './jobs.js';
import type { TrainerPort } from './ports.js';
import { createdMs, type RunRecord } from './record.js';
import type { ResultReader } from './results.js';
import { spinObjective, trainSettings } from './train-settings.js';
import { toRef } from './wire.js';

const retryMs = { first: 250, longest: 5_000 };
/**
 * Failures that may be a passing one are tried so often; an unreachable trainer is awaited for
 * ever.
 */
const maxFailures = 3;

export interface TrainListener {
  started(resumedStep: number): Promise<unknown>;
  /** Steps of a call before this one, which may have been told of or not. */
  recent(steps: readonly StepNumbers[]): void;
  step(metrics: StepNumbers): Promise<unknown>;
  alarm(step: number, message: string): Promise<unknown>;
  /** What it would have ended in after this step is in the store. */
  snapshot(step: number): Promise<unknown>;
  rolledBack(back: { step: number; reason: string; learningRateScale: number }): Promise<unknown>;
  waiting(reason: string): void;
  /** It has no images for its next step; throws where those are lost. */
  starving(key: string): Promise<unknown>;
}

/** What the trainer is asked for: the objective, where training starts, against whom, on what. */
export async function trainRequest(
  record: RunRecord,
  model: Model,
  results: ResultReader,
): Promise<TrainRequest> {
  const { config, runId } = record;
  const common = {
    key: trainKey(runId, model),
    runId,
    runCreatedMs: createdMs(record),
    iteration: iterationOf(model),
    modelName: modelName(model),
    pipelinePath: config.model,
    encodedShards: await shardRefs(
      record,
      stageName({ kind: 'encode' }),
      async (key) => (await results.encode(key)).shard,
    ),
  };
  switch (model.kind) {
    case 'sft':
      return create(TrainRequestSchema, { ...common, ...sftRequest(record) });
    case 'dpo':
      return create(TrainRequestSchema, { ...common, ...dpoRequest(record) });
    case 'spin':
      return create(TrainRequestSchema, {
        ...common,
        ...(await spinRequest(record, model.iteration, results)),
      });
    case 'base':
    case 'ema':
      throw new SpindleError(
        'INTERNAL',
        `run "${runId}": expected a model that is trained, got ${modelName(model)}.`,
      );
  }
}

function sftRequest(record: RunRecord) {
  const sft = settingsOf(record, 'sft', sftTraining(record.config));
  return {
    objective: Objective.SFT,
    init: unetRef(record, base),
    settings: trainSettings(record.config, sft),
  };
}

function dpoRequest(record: RunRecord) {
  const dpo = settingsOf(record, 'dpo', dpoTraining(record.config));
  return {
    objective: Objective.DPO,
    init: unetRef(record, base),
    opponent: unetRef(record, base),
    settings: trainSettings(record.config, dpo),
  };
}

function settingsOf<T>(record: RunRecord, baseline: string, settings: T | undefined): T {
  if (settings !== undefined) return settings;
  throw new SpindleError(
    'INTERNAL',
    `run "${record.runId}": expected settings of the baseline ${baseline}, got none.`,
  );
}

/** Iteration `k` starts where the one before ended, against the images that its opponent drew. */
async function spinRequest(record: RunRecord, k: number, results: ResultReader) {
  const { config, state } = record;
  const { previous_share: share } = config.sampling;
  const opponent = opponentOf(state.plan, k);
  const before = k > 1 && share > 0 ? opponentOf(state.plan, k - 1) : opponent;
  // The same opponent drew the same images.
  const previous = sameModel(before, opponent) ? null : before;
  const drawnBy = (model: Model): Promise<ArtifactRef[]> =>
    shardRefs(
      record,
      stageName({ kind: 'sample', model }),
      async (key) => (await results.sample(key)).latents,
    );
  const judged =
    state.plan.keepIf && (await judgedPairs(record, opponent, state.plan.keepIf, results));
  const early = isEarly(state, stageNamed(record, stageName({ kind: 'train', model: spin(k) })));
  return {
    objective: spinObjective(config),
    init: trainingRef(record, initOf(k), config.train),
    opponent: trainingRef(record, opponent, config.train),
    ...(early
      ? await shardsSoFar(record, opponent, results)
      : { generatedShards: judged?.shards ?? (await drawnBy(opponent)) }),
    leftOut: judged?.leftOut ?? [],
    // Epochs are of the pairs that are kept.
    drawnAsRead: state.plan.asRead !== undefined && judged === undefined,
    ...(previous && { previousShards: await drawnBy(previous) }),
    settings: trainSettings(config, spinTraining(config, k), previous === null ? 0 : share),
  };
}

/** The first shards of an opponent's images, which are drawn, and the jobs of those that follow. */
async function shardsSoFar(record: RunRecord, opponent: Model, results: ResultReader) {
  const { plan, rejected } = record.state;
  const stage = stageNamed(record, stageName({ kind: 'sample', model: opponent }));
  const without = new Set(rejected);
  const keys = Array.from({ length: stage.shards }, (_, shard) => shard)
    .filter((shard) => shardSize(plan, stage, shard, without) > 0)
    .map((shard) => ({ shard, key: jobKey(record.runId, stage.name, shard) }));
  const done = new Set(stageOf(record.state, stage.name).done);
  const missing = keys.findIndex(({ shard }) => !done.has(shard));
  const drawn = missing < 0 ? keys.length : missing;
  const generatedShards: ArtifactRef[] = [];
  for (const { key } of keys.slice(0, drawn)) {
    const { latents } = await results.sample(key);
    if (latents) generatedShards.push(latents);
  }
  const toCome = create(ShardsToComeSchema, {
    keys: keys.slice(drawn).map(({ key }) => key),
    imagesPerShard: imagesPerJob(plan),
    copies: plan.imagesPerPrompt,
    views: plan.asRead?.views ?? 1,
  });
  return { generatedShards, toCome };
}

/** The shards that were drawn and judged, and which of their images training leaves out. */
async function judgedPairs(
  record: RunRecord,
  opponent: Model,
  keepIf: KeepIf,
  results: ResultReader,
): Promise<{ shards: ArtifactRef[]; leftOut: LeftOutImages[] }> {
  const { plan, rejected } = record.state;
  const [drawing, judging] = (['sample', 'score'] as const).map((kind) =>
    stageNamed(record, stageName({ kind, model: opponent })),
  );
  const shards: ArtifactRef[] = [];
  const without: LeftOutImages[] = [];
  if (!drawing || !judging) return { shards, leftOut: without };
  const drawn = new Set(stageOf(record.state, drawing.name).done);
  const skipped = new Set(rejected);
  for (const shard of stageOf(record.state, judging.name).done) {
    const items = shardItems(plan, judging, shard, skipped);
    if (items.length === 0 || !drawn.has(shard)) continue;
    const { latents } = await results.sample(jobKey(record.runId, drawing.name, shard));
    const { scores } = await results.score(jobKey(record.runId, judging.name, shard));
    const values = scores[0]?.values ?? [];
    if (latents === undefined || values.length !== 2 * items.length)
      throw new SpindleError(
        'DATA_LOSS',
        `result ${jobKey(record.runId, judging.name, shard)}: expected ${2 * items.length} ` +
          `scores of images that are there, got ${values.length}.`,
      );
    shards.push(latents);
    // An image is named by its row and by how many of that row lie before it in the shard.
    const seen = new Map<number, number>();
    const copyOf = items.map(({ index }) => {
      const before = seen.get(index) ?? 0;
      seen.set(index, before + 1);
      return before;
    });
    const places = leftOut(values, keepIf);
    without.push(
      create(LeftOutImagesSchema, {
        indexes: places.map((n) => items[n]?.index ?? 0),
        copies: places.map((n) => copyOf[n] ?? 0),
      }),
    );
  }
  return { shards, leftOut: without };
}

/**
 * With LoRA, models are the base and what was added to it: one copy of its weights serves them all.
 */
function trainingRef(record: RunRecord, model: Model, train: TrainConfig): UnetRef {
  const ref = unetRef(record, model);
  const adapter = model.kind === 'base' ? undefined : storedUnet(record, model).adapter;
  return train.lora && adapter
    ? create(UnetRefSchema, {
        name: modelName(model),
        path: unetRef(record, base).path,
        adapter: toRef(adapter),
      })
    : ref;
}

/**
 * In shard order, so that training sees the data in the same order whatever order it was made in.
 */
async function shardRefs(
  record: RunRecord,
  name: string,
  read: (key: string) => Promise<ArtifactRef | undefined>,
): Promise<ArtifactRef[]> {
  const { plan, rejected } = record.state;
  const stage = stageNamed(record, name);
  const without = new Set(rejected);
  const refs: ArtifactRef[] = [];
  for (const shard of stageOf(record.state, name).done) {
    // Nothing was drawn for a shard whose rows were all rejected.
    if (stage.kind === 'sample' && shardSize(plan, stage, shard, without) === 0) continue;
    const ref = await read(jobKey(record.runId, name, shard));
    if (ref) refs.push(ref);
  }
  return refs;
}

/**
 * Resolves with what training left, or undefined when `signal` aborts; throws what ends the
 * training for good. Every call asks with the request of its time.
 */
export async function train(
  trainer: TrainerPort,
  requestNow: () => Promise<TrainRequest>,
  listener: TrainListener,
  signal: AbortSignal,
  logger: Logger,
): Promise<TrainFinished | undefined> {
  let wait = retryMs.first;
  let failures = 0;
  while (!signal.aborted) {
    const request = await requestNow();
    try {
      for await (const { event } of trainer.train(request, { signal })) {
        wait = retryMs.first;
        failures = 0;
        if (event.case === 'started' || event.case === 'finished')
          listener.recent(event.value.recent.map(numbersOf));
        if (event.case === 'started') await listener.started(event.value.resumedStep);
        else if (event.case === 'step') await listener.step(numbersOf(event.value));
        else if (event.case === 'alarm')
          await listener.alarm(event.value.step, event.value.message);
        else if (event.case === 'rolledBack') {
          const { step, reason, learningRateScale } = event.value;
          await listener.rolledBack({ step, reason, learningRateScale });
        } else if (event.case === 'snapshot') await listener.snapshot(event.value.step);
        else if (event.case === 'waiting') await listener.starving(event.value.key);
        else if (event.case === 'finished') return event.value;
        if (signal.aborted) return undefined;
      }
      throw new SpindleError('UNAVAILABLE', 'the trainer ended the call without a result');
    } catch (thrown) {
      if (signal.aborted) return undefined;
      const error = ensureError(thrown);
      if (!mayPass(error)) throw error;
      if (error.code === 'INTERNAL' && ++failures >= maxFailures) throw error;
      logger.warn({ err: error, key: request.key }, 'the trainer is not there; trying again');
      listener.waiting(error.message);
      await delay(wait, signal).catch(() => undefined);
      wait = Math.min(wait * 2, retryMs.longest);
    }
  }
  return undefined;
}

function mayPass(error: SpindleError): boolean {
  switch (error.code) {
    case 'UNAVAILABLE':
    case 'ABORTED':
    case 'CANCELLED':
    case 'DEADLINE_EXCEEDED':
    case 'INTERNAL':
      return error.retryable;
    default:
      return false;
  }
}
