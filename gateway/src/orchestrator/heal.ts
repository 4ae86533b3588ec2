/**
 * Finds out what of a stage's inputs is damaged or gone, and has it made again. Whatever a run has
 * made it can make again: jobs and trainings are deterministic.
 */
import { ensureError } from '@spindle/kit';
import type { ArtifactRef, JobResult } from '@spindle/proto';
import { inputsOf } from '../domain/inputs.js';
import { mayBeRedone, mayBeRestored, type Lost } from '../domain/lost.js';
import { jobKey, trainKey } from '../domain/plan.js';
import { modelName, type Model } from '../domain/model.js';
import { shardSize } from '../domain/shards.js';
import { isOfRows, stageName } from '../domain/stage.js';
import { stageOf, type Letter } from '../domain/state.js';
import { stageNamed, type ShardOf } from './jobs.js';
import { isWholeBlob } from './loss.js';
import { restoreTexts } from './restore-texts.js';
import type { RunContext } from './run-context.js';
import { toRef } from './wire.js';

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
  const inputs = inputsOf(record().state.plan, stageNamed(record(), stage), shard);
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
  const dropped = await dropUntaken(context, inputs.stages);
  for (const one of inputs.stages.flatMap((name) => doneShards(context, name, inputs.shard)))
    if (!(await isWhole(context, one)) && mayBeRedone(record().state, one.stage, one.shard))
      lost.shards.push(one);
  for (const model of inputs.models)
    if (!(await hasWeights(context, model)) && mayBeRedone(record().state, trainStage(model), 0))
      lost.models.push(modelName(model));
  if (lost.shards.length + lost.models.length + lost.texts.length + dropped === 0) return false;
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

/** Shards of a stage that jobs have done; none of a stage that the run does not have. */
function doneShards({ record }: RunContext, name: string, shard?: number): ShardOf[] {
  const { state } = record();
  if (!state.stages[name]) return [];
  const stage = stageNamed(record(), name);
  // Nothing was drawn or judged for a shard whose rows were all rejected.
  const rejected = new Set(isOfRows(stage.kind) ? state.rejected : []);
  return stageOf(state, name)
    .done.filter((one) => shard === undefined || one === shard)
    .filter((one) => shardSize(state.plan, stage, one, rejected) > 0)
    .map((one) => ({ stage: name, shard: one }));
}

/**
 * Training reads results while their stage runs, and may be there before the state has taken one
 * in. Drops those that are damaged; how many.
 */
async function dropUntaken(context: RunContext, names: readonly string[]): Promise<number> {
  const { ports, record, results } = context;
  const { runId, state } = record();
  let dropped = 0;
  for (const name of names) {
    if (state.stages[name]?.status !== 'running') continue;
    const done = new Set(stageOf(state, name).done);
    const { shards } = stageNamed(record(), name);
    for (let shard = 0; shard < shards; shard++) {
      if (done.has(shard)) continue;
      const key = jobKey(runId, name, shard);
      const result = await results.get(key);
      if (result === null || (await areWhole(context, blobsOf(result)))) continue;
      await ports.store.deleteResults(key);
      dropped++;
    }
  }
  return dropped;
}

async function isWhole(context: RunContext, { stage, shard }: ShardOf): Promise<boolean> {
  const result = await context.results.get(jobKey(context.record().runId, stage, shard));
  return result !== null && (await areWhole(context, blobsOf(result)));
}

async function hasWeights(context: RunContext, model: Model): Promise<boolean> {
  const { unet, average, state } = context.record().state.training[modelName(model)] ?? {};
  const blobs = [unet, average].flatMap((one) =>
    one ? [one.config, one.weights, one.adapter] : [],
  );
  return areWhole(
    context,
    [...blobs, state?.file].flatMap((blob) => (blob ? [toRef(blob)] : [])),
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
      return [
        ...result.value.images,
        ...result.value.realImages,
        ...(result.value.latents ? [result.value.latents] : []),
      ];
    case 'score':
    case undefined:
      return [];
  }
}
