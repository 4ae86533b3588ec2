/**
 * Finds out what of a stage's inputs is damaged or gone, and has it made again. Whatever a run has
 * made it can make again: jobs and trainings are deterministic.
 */
import { ensureError } from '@spindle/kit';
import type { ArtifactRef, JobResult } from '@spindle/proto';
import { mayBeRedone, mayBeRestored, type Lost } from '../domain/lost.js';
import { initOf, jobKey, modelsOf, opponentOf, trainedAs, trainKey } from '../domain/plan.js';
import { modelName, type Model } from '../domain/model.js';
import { shardSize } from '../domain/shards.js';
import { stageName, type Stage } from '../domain/stage.js';
import { stageOf, type Letter } from '../domain/state.js';
import { stageNamed, type ShardOf } from './jobs.js';
import { isWholeBlob } from './loss.js';
import { restoreTexts } from './restore-texts.js';
import type { RunContext } from './run-context.js';
import { toRef } from './wire.js';

/** What a stage, or one shard of it, is made from. */
interface Inputs {
  /** Stages whose results are read; with `shard`, that one alone. */
  stages: string[];
  shard?: number;
  models: Model[];
}

/**
 * After a failure for want of stored data: true when something of the run's own was lost, and is
 * now made again. False when nothing is, or when it was made again too often.
 */
export async function heal(
  context: RunContext,
  { stage, shard }: { stage: string; shard?: number },
  letter?: Letter,
): Promise<boolean> {
  const { ports, record, dispatch } = context;
  const inputs = inputsOf(context, stageNamed(record(), stage), shard);
  const lost: Lost = { shards: [], models: [], texts: [] };
  try {
    // Held-out prompts are small, and rows that are whole are found to be so at once.
    const restored = await restoreTexts(ports, record());
    lost.texts = restored.filter((name) => mayBeRestored(record().state, name));
  } catch (thrown) {
    const { message, retryable } = ensureError(thrown);
    if (retryable) throw thrown;
    await dispatch({ type: 'failed', stage, reason: `${stage}: ${message}` });
    return true;
  }
  for (const one of inputs.stages.flatMap((name) => doneShards(context, name, inputs.shard)))
    if (!(await isWhole(context, one)) && mayBeRedone(record().state, one.stage, one.shard))
      lost.shards.push(one);
  for (const model of inputs.models)
    if (!(await hasWeights(context, model)) && mayBeRedone(record().state, trainStage(model), 0))
      lost.models.push(modelName(model));
  if (lost.shards.length + lost.models.length + lost.texts.length === 0) return false;
  ports.logger.warn({ run: record().runId, stage, ...lost }, 'damaged results are made again');
  // Before the state says so: else the next comparison takes them in again.
  const { runId } = record();
  for (const one of lost.shards)
    await ports.store.deleteResults(jobKey(runId, one.stage, one.shard));
  for (const model of inputs.models)
    if (lost.models.includes(modelName(model)))
      await ports.store.deleteResults(trainKey(runId, model));
  await dispatch({ type: 'inputs-lost', ...lost, ...(letter && { letter }) });
  return true;
}

function trainStage(model: Model): string {
  return stageName({ kind: 'train', model });
}

function inputsOf({ record }: RunContext, stage: Stage, shard?: number): Inputs {
  const { plan } = record().state;
  const encode = stageName({ kind: 'encode' });
  const trained = (...models: Model[]): Model[] =>
    models.map(trainedAs).filter(({ kind }) => kind !== 'base');
  switch (stage.kind) {
    case 'encode':
      return { stages: [], models: [] };
    case 'sample':
      return { stages: [encode], models: trained(stage.model) };
    case 'eval-sample':
      return { stages: [], models: trained(stage.model) };
    case 'eval-score':
      return {
        stages: [stageName({ kind: 'eval-sample', model: stage.model })],
        ...(shard !== undefined && { shard }),
        models: [],
      };
    case 'train': {
      if (stage.model.kind !== 'spin') return { stages: [encode], models: [] };
      const { iteration } = stage.model;
      const opponents = [opponentOf(plan, iteration)];
      if (iteration > 1) opponents.push(opponentOf(plan, iteration - 1));
      const drawn = new Set(opponents.map((model) => stageName({ kind: 'sample', model })));
      return { stages: [encode, ...drawn], models: trained(initOf(iteration), ...opponents) };
    }
    case 'evaluate':
    case 'report':
      return {
        stages: modelsOf(plan).flatMap((model) => [
          stageName({ kind: 'eval-sample', model }),
          stageName({ kind: 'eval-score', model }),
        ]),
        // The report comes with every U-Net in the run's folder.
        models: stage.kind === 'report' ? trained(...modelsOf(plan)) : [],
      };
  }
}

/** Shards of a stage that jobs have done; none of a stage that the run does not have. */
function doneShards({ record }: RunContext, name: string, shard?: number): ShardOf[] {
  const { state } = record();
  if (!state.stages[name]) return [];
  const stage = stageNamed(record(), name);
  // Nothing was drawn for a shard whose rows were all rejected.
  const rejected = new Set(stage.kind === 'sample' ? state.rejected : []);
  return stageOf(state, name)
    .done.filter((one) => shard === undefined || one === shard)
    .filter((one) => shardSize(state.plan, stage, one, rejected) > 0)
    .map((one) => ({ stage: name, shard: one }));
}

async function isWhole(context: RunContext, { stage, shard }: ShardOf): Promise<boolean> {
  const result = await context.results.get(jobKey(context.record().runId, stage, shard));
  return result !== null && (await areWhole(context, blobsOf(result)));
}

async function hasWeights(context: RunContext, model: Model): Promise<boolean> {
  const { unet, average } = context.record().state.training[modelName(model)] ?? {};
  const blobs = [unet, average].flatMap((one) =>
    one ? [one.config, one.weights, one.adapter] : [],
  );
  return areWhole(
    context,
    blobs.flatMap((blob) => (blob ? [toRef(blob)] : [])),
  );
}

async function areWhole({ ports }: RunContext, refs: readonly ArtifactRef[]): Promise<boolean> {
  for (const ref of refs) if (!(await isWholeBlob(ports.store, ref))) return false;
  return true;
}

function blobsOf({ result }: JobResult): ArtifactRef[] {
  switch (result.case) {
    case 'encode':
      return result.value.shard ? [result.value.shard] : [];
    case 'sample':
      return [...result.value.images, ...(result.value.latents ? [result.value.latents] : [])];
    case 'score':
    case undefined:
      return [];
  }
}
