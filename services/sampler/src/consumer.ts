/**
 * Encode and sample jobs from the queue: a stored result is the proof of work done, so a job is
 * done once whatever is redelivered.
 */
import { create, fromJsonString, toJsonString } from '@bufbuild/protobuf';
import { timestampNow } from '@bufbuild/protobuf/wkt';
import type { ImageReader } from '@spindle/data';
import { ensureError, inSpan, SpindleError, type Logger } from '@spindle/kit';
import { type ArtifactStore, type Bus, type JobContext, type WorkerState } from '@spindle/mesh';
import {
  EventSchema,
  JobResultSchema,
  type ArtifactRef,
  type Job,
  type JobResult,
} from '@spindle/proto';
import { encode, type Manifests } from './encode.js';
import type { EncodeCache } from './encode-cache.js';
import type { SamplerEngine } from './engine.js';
import type { Instruments } from './instruments.js';
import type { Models } from './models.js';
import type { RowCache } from './row-cache.js';
import { sample } from './sample.js';

export interface ConsumerDeps {
  store: ArtifactStore;
  engine: SamplerEngine;
  models: Models;
  images: ImageReader;
  manifests: Manifests;
  cache: EncodeCache;
  rows: RowCache;
  bus: Pick<Bus, 'publishEvent'>;
  state: WorkerState;
  instruments: Instruments;
  logger: Logger;
  workerId: string;
}

export function createJobHandler(
  deps: ConsumerDeps,
): (job: Job, context: JobContext) => Promise<void> {
  return (job, context) =>
    inSpan(
      'sampler.job',
      {
        'spindle.job.key': job.key,
        'spindle.job.kind': job.work.case ?? 'none',
        'spindle.job.attempt': context.attempt,
      },
      async () => {
        const kind = job.work.case ?? 'none';
        deps.state.begin(job.key);
        try {
          const result =
            (await finished(job.key, deps.store)) ?? (await work(job, deps, context.signal));
          await publishDone(job, result, deps);
          deps.state.end(true);
        } catch (thrown) {
          const error = ensureError(thrown);
          deps.state.end(false);
          deps.instruments.jobFailed(kind, error.code);
          deps.logger.warn({ key: job.key, attempt: context.attempt, err: error }, 'job failed');
          throw error;
        }
      },
    );
}

/**
 * The stored result, unless one of its blobs is gone: the work then runs again and, being
 * deterministic, puts the same blob back.
 */
async function finished(key: string, store: ArtifactStore): Promise<JobResult | null> {
  const json = await store.getResult(key);
  if (json === null) return null;
  const result = fromJsonString(JobResultSchema, json);
  for (const ref of blobsOf(result)) if (!(await store.has(ref))) return null;
  return result;
}

function blobsOf(result: JobResult): ArtifactRef[] {
  switch (result.result.case) {
    case 'encode':
      return result.result.value.shard === undefined ? [] : [result.result.value.shard];
    case 'sample':
      return [
        ...result.result.value.images,
        ...(result.result.value.latents === undefined ? [] : [result.result.value.latents]),
      ];
    case 'score':
    case undefined:
      return [];
  }
}

async function work(job: Job, deps: ConsumerDeps, signal: AbortSignal): Promise<JobResult> {
  const started = performance.now();
  const result = create(JobResultSchema, {
    key: job.key,
    worker: deps.workerId,
    result: await perform(job, deps, signal),
  });
  result.seconds = (performance.now() - started) / 1000;
  const rejected = result.result.case === 'encode' ? result.result.value.rejected.length : 0;
  deps.instruments.jobDone(job.work.case ?? 'none', result.seconds, itemCount(result), rejected);
  // Another worker may have been first after a redelivery: its result is the same data and stands.
  if (
    (await deps.store.commitResult(job.key, toJsonString(JobResultSchema, result))) === 'committed'
  )
    return result;
  return fromJsonString(JobResultSchema, (await deps.store.getResult(job.key)) ?? '');
}

async function perform(
  job: Job,
  deps: ConsumerDeps,
  signal: AbortSignal,
): Promise<JobResult['result']> {
  switch (job.work.case) {
    case 'encode':
      return { case: 'encode', value: await encode(job.work.value, job.runId, deps, signal) };
    case 'sample':
      return { case: 'sample', value: await sample(job.work.value, job.runId, deps, signal) };
    case 'score':
    case undefined:
      throw new SpindleError(
        'INVALID_ARGUMENT',
        `${job.key}: work: expected encode or sample, got ${job.work.case ?? 'nothing'}`,
      );
  }
}

function publishDone(job: Job, result: JobResult, deps: ConsumerDeps): Promise<void> {
  const event = create(EventSchema, {
    runId: job.runId,
    at: timestampNow(),
    fact: {
      case: 'jobDone',
      value: {
        key: job.key,
        seconds: result.seconds,
        worker: result.worker,
        items: itemCount(result),
      },
    },
  });
  return deps.bus.publishEvent(event, `${job.key}#done`);
}

function itemCount(result: JobResult): number {
  return result.result.case === 'encode' || result.result.case === 'sample'
    ? result.result.value.count
    : 0;
}
