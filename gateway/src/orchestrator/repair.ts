/**
 * Makes damaged inputs of a training again. Jobs are deterministic, so the blob comes back under
 * its own digest.
 */
import { delay, SpindleError } from '@spindle/kit';
import type { ArtifactRef, Job, JobResult, TrainRequest } from '@spindle/proto';
import { jobKey, opponentOf } from '../domain/plan.js';
import { stageName } from '../domain/stage.js';
import { stageOf } from '../domain/state.js';
import { buildJob, type ShardOf } from './jobs.js';
import type { RunContext } from './run-context.js';

const pollMs = 200;

interface Damaged extends ShardOf {
  ref: ArtifactRef;
}

/** Returns how many shards were made again. */
export async function repairInputs(
  context: RunContext,
  request: TrainRequest,
  signal: AbortSignal,
): Promise<number> {
  const { ports } = context;
  const record = context.record();
  const { iteration, encodedShards, generatedShards, previousShards } = request;
  const drawnFor = (k: number): string =>
    stageName({ kind: 'sample', model: opponentOf(record.state.plan, k) });
  const all = [
    ...(await damaged(context, stageName({ kind: 'encode' }), encodedShards)),
    ...(iteration < 1 ? [] : await damaged(context, drawnFor(iteration), generatedShards)),
    ...(iteration < 2 ? [] : await damaged(context, drawnFor(iteration - 1), previousShards)),
  ];
  // Before any result goes: sampling is told by encoding how large its images are.
  const jobs: Job[] = [];
  for (const one of all) jobs.push(await buildJob(context, one));
  for (const [i, job] of jobs.entries()) {
    ports.logger.warn(
      { key: job.key, digest: all[i]?.ref.digest },
      'a damaged shard is made again',
    );
    await ports.store.deleteResults(job.key);
    // A round of its own gets past the queue's de-duplication.
    await ports.bus.publishJob(job, Date.now());
  }
  for (const { stage, shard, ref } of all) {
    while (!(await ports.store.has(ref))) {
      const key = jobKey(record.runId, stage, shard);
      const dead = (await ports.bus.deadLetters(record.runId)).find((letter) => letter.key === key);
      if (dead)
        throw new SpindleError(
          'DATA_LOSS',
          `${key}: its data ${ref.digest} is damaged and could not be made again: ${dead.reason}`,
        );
      await delay(pollMs, signal);
    }
  }
  return all.length;
}

async function damaged(
  { ports, record, results }: RunContext,
  stage: string,
  refs: readonly ArtifactRef[],
): Promise<Damaged[]> {
  const { runId, state } = record();
  const bad = new Set<string>();
  for (const ref of refs) {
    // Reading verifies, and sets a bad blob aside.
    await ports.store.get(ref).catch(() => bad.add(ref.digest));
  }
  if (bad.size === 0) return [];
  const found: Damaged[] = [];
  for (const shard of stageOf(state, stage).done) {
    const result = await results.get(jobKey(runId, stage, shard));
    const ref = shardOf(result);
    if (ref && bad.has(ref.digest)) found.push({ stage, shard, ref });
  }
  return found;
}

/** What training reads of a job's result. */
function shardOf(result: JobResult | null): ArtifactRef | undefined {
  switch (result?.result.case) {
    case 'encode':
      return result.result.value.shard;
    case 'sample':
      return result.result.value.latents;
    default:
      return undefined;
  }
}
