/**
 * Makes damaged inputs of a training again. Jobs are deterministic, so the blob comes back under
 * its own digest.
 */
import { delay, SpindleError } from '@spindle/kit';
import type { ArtifactRef, Job, TrainRequest } from '@spindle/proto';
import { jobKey, opponentOf } from '../domain/plan.js';
import { stageOf } from '../domain/state.js';
import { buildJob } from './jobs.js';
import type { TaskContext } from './tasks.js';

const pollMs = 200;

/** Returns how many shards were made again. */
export async function repairInputs(context: TaskContext, request: TrainRequest): Promise<number> {
  const record = context.record();
  const encoded = await damaged(context, 'encode', request.encodedShards);
  const generated =
    request.iteration === 0
      ? []
      : await damaged(
          context,
          `sample-${opponentOf(record.state.plan, request.iteration)}`,
          request.generatedShards,
        );
  const previous =
    request.iteration < 2
      ? []
      : await damaged(
          context,
          `sample-${opponentOf(record.state.plan, request.iteration - 1)}`,
          request.previousShards,
        );
  const all = [...encoded, ...generated, ...previous];
  const texts = await context.texts();
  // Before any result goes: sampling is told by encoding how large its images are.
  const jobs: Job[] = [];
  for (const { stage, shard } of all)
    jobs.push(await buildJob(record, stage, shard, texts, context.results));
  for (const [i, job] of jobs.entries()) {
    context.ports.logger.warn(
      { key: job.key, digest: all[i]?.ref.digest },
      'a damaged shard is made again',
    );
    await context.ports.store.deleteResults(job.key);
    // A round of its own gets past the queue's de-duplication.
    await context.ports.bus.publishJob(job, Date.now());
  }
  for (const { stage, shard, ref } of all) {
    while (!(await context.ports.store.has(ref))) {
      const key = jobKey(record.runId, stage, shard);
      const dead = (await context.ports.bus.deadLetters(record.runId)).find(
        (letter) => letter.key === key,
      );
      if (dead)
        throw new SpindleError(
          'DATA_LOSS',
          `${key}: its data ${ref.digest} is damaged and could not be made again: ${dead.reason}`,
        );
      await delay(pollMs, context.signal);
    }
  }
  return all.length;
}

async function damaged(
  context: TaskContext,
  stage: string,
  refs: ArtifactRef[],
): Promise<{ stage: string; shard: number; ref: ArtifactRef }[]> {
  const record = context.record();
  const bad = new Set<string>();
  for (const ref of refs) {
    // Reading verifies, and sets a bad blob aside.
    await context.ports.store.get(ref).catch(() => bad.add(ref.digest));
  }
  if (bad.size === 0) return [];
  const found: { stage: string; shard: number; ref: ArtifactRef }[] = [];
  for (const shard of stageOf(record.state, stage).done) {
    const key = jobKey(record.runId, stage, shard);
    const ref =
      stage === 'encode'
        ? (await context.results.encode(key)).shard
        : (await context.results.sample(key)).latents;
    if (ref && bad.has(ref.digest)) found.push({ stage, shard, ref });
  }
  return found;
}
