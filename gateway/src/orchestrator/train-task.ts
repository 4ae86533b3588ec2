/**
 * One training, as seen from the gateway: a call that is repeated until the trainer has said how it
 * ends.
 */
import { create } from '@bufbuild/protobuf';
import {
  UnetRefSchema,
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
import { initOf, iterationOf, jobKey, opponentOf, trainKey } from '../domain/plan.js';
import { shardSize } from '../domain/shards.js';
import { stageOf } from '../domain/state.js';
import { stageNamed, storedUnet, unetRef } from './jobs.js';
import type { TrainerPort } from './ports.js';
import type { RunRecord } from './record.js';
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
  step(metrics: StepNumbers): Promise<unknown>;
  alarm(step: number, message: string): Promise<unknown>;
  rolledBack(back: { step: number; reason: string; learningRateScale: number }): Promise<unknown>;
  waiting(reason: string): void;
}

export async function trainRequest(
  record: RunRecord,
  model: string,
  results: ResultReader,
): Promise<TrainRequest> {
  const { config, runId } = record;
  const k = iterationOf(model);
  const base = {
    key: trainKey(runId, model),
    runId,
    iteration: k,
    modelName: model,
    pipelinePath: config.model,
  };
  const encodedShards = await shardRefs(
    record,
    'encode',
    async (key) => (await results.encode(key)).shard,
  );
  if (k === 0) {
    const init = unetRef(record, 'base');
    const sft = model === 'sft' ? sftTraining(config) : undefined;
    if (sft) {
      return create(TrainRequestSchema, {
        ...base,
        objective: Objective.SFT,
        init,
        encodedShards,
        settings: trainSettings(config, sft, 1),
      });
    }
    const dpo = dpoTraining(config);
    if (!dpo)
      throw new SpindleError(
        'INTERNAL',
        `run "${runId}": expected settings of the baseline ${model}, got none.`,
      );
    return create(TrainRequestSchema, {
      ...base,
      objective: Objective.DPO,
      init,
      opponent: init,
      encodedShards,
      settings: trainSettings(config, dpo, 1),
    });
  }
  const opponent = opponentOf(record.state.plan, k);
  const before =
    k > 1 && config.sampling.previous_share > 0 ? opponentOf(record.state.plan, k - 1) : opponent;
  // The same opponent drew the same images.
  const previous = before === opponent ? null : before;
  return create(TrainRequestSchema, {
    ...base,
    objective: spinObjective(config),
    init: trainingRef(record, initOf(k), config.train),
    opponent: trainingRef(record, opponent, config.train),
    encodedShards,
    generatedShards: await shardRefs(
      record,
      `sample-${opponent}`,
      async (key) => (await results.sample(key)).latents,
    ),
    ...(previous !== null && {
      previousShards: await shardRefs(
        record,
        `sample-${previous}`,
        async (key) => (await results.sample(key)).latents,
      ),
    }),
    settings: trainSettings(
      config,
      spinTraining(config, k),
      k,
      previous === null ? 0 : config.sampling.previous_share,
    ),
  });
}

/**
 * With LoRA, models are the base and what was added to it: one copy of its weights serves them all.
 */
function trainingRef(record: RunRecord, model: string, train: TrainConfig): UnetRef {
  const ref = unetRef(record, model);
  const adapter = model === 'base' ? undefined : storedUnet(record, model).adapter;
  return train.lora && adapter
    ? create(UnetRefSchema, {
        name: model,
        path: unetRef(record, 'base').path,
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
 * training for good.
 */
export async function train(
  trainer: TrainerPort,
  request: TrainRequest,
  listener: TrainListener,
  signal: AbortSignal,
  logger: Logger,
): Promise<TrainFinished | undefined> {
  let wait = retryMs.first;
  let failures = 0;
  while (!signal.aborted) {
    try {
      for await (const { event } of trainer.train(request, { signal })) {
        wait = retryMs.first;
        failures = 0;
        if (event.case === 'started') await listener.started(event.value.resumedStep);
        else if (event.case === 'step') await listener.step(numbersOf(event.value));
        else if (event.case === 'alarm')
          await listener.alarm(event.value.step, event.value.message);
        else if (event.case === 'rolledBack') {
          const { step, reason, learningRateScale } = event.value;
          await listener.rolledBack({ step, reason, learningRateScale });
        } else if (event.case === 'finished') return event.value;
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
