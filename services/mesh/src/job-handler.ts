/**
 * What every worker does with a job: find its result or do the work; then, beside the next job,
 * commit and tell. The loop acknowledges last. A stored result is the proof of work done, so a job
 * is done once whatever is redelivered.
 */
import { create } from '@bufbuild/protobuf';
import { timestampNow } from '@bufbuild/protobuf/wkt';
import { ensureError, inSpan, type Logger, type SpindleError } from '@spindle/kit';
import {
  EventSchema,
  JobResultSchema,
  type ArtifactRef,
  type Job,
  type JobResult,
} from '@spindle/proto';
import { commitJobResult, isLeftOver, readJobResult } from './job-result.js';
import type { Bus, JobHandler } from './nats/bus.js';
import type { ArtifactStore } from './store/store.js';
import type { WorkerState } from './worker.js';

/** A worker's own telemetry of its jobs. */
export interface JobInstruments {
  jobDone(kind: string, seconds: number, items: number, rejected: number): void;
  jobFailed(kind: string, code: string): void;
}

/** What a job handler works with. */
export interface JobHandlerParts {
  /** Names the span: "sampler" gives "sampler.job". */
  service: string;
  /**
   * Does the work. Deterministic: run twice, it leaves the same bytes. Throws INVALID_ARGUMENT for
   * a kind that is not this worker's.
   */
  perform: (job: Job, signal: AbortSignal) => Promise<JobResult['result']>;
  store: ArtifactStore;
  bus: Pick<Bus, 'publishEvent'>;
  state: WorkerState;
  instruments: JobInstruments;
  logger: Logger;
  workerId: string;
}

/** The handler that `takeJobs` calls for every job. */
export function createJobHandler(parts: JobHandlerParts): JobHandler {
  return (job, context) => {
    const kind = job.work.case ?? 'none';
    const attributes = {
      'spindle.job.key': job.key,
      'spindle.job.kind': kind,
      'spindle.job.attempt': context.attempt,
    };
    const failed = (thrown: unknown): SpindleError => {
      const error = ensureError(thrown);
      parts.state.count(false);
      parts.instruments.jobFailed(kind, error.code);
      parts.logger.warn({ key: job.key, attempt: context.attempt, err: error }, 'job failed');
      return error;
    };
    return inSpan(`${parts.service}.job`, attributes, async () => {
      parts.state.begin(job.key);
      try {
        const stored = await finished(job, parts.store);
        const result = stored ?? (await work(job, parts, context.signal));
        context.afterwards(async () => {
          let standing = stored;
          try {
            standing ??= await commitJobResult(result, parts.store);
          } catch (thrown) {
            throw failed(thrown);
          }
          parts.state.count(true);
          await publishDone(job, standing, parts.bus);
        });
      } catch (thrown) {
        throw failed(thrown);
      } finally {
        parts.state.letGo();
      }
    });
  };
}

/**
 * The stored result, unless it is of an earlier run of this id, or one of its blobs is gone: the
 * work then runs again and, being deterministic, puts the same blob back.
 */
async function finished(job: Job, store: ArtifactStore): Promise<JobResult | null> {
  const result = await readJobResult(job.key, store);
  if (result === null || (await isLeftOver(job.key, result, job, store))) return null;
  for (const ref of blobsOf(result)) {
    if (await store.has(ref)) continue;
    await store.deleteResults(job.key);
    return null;
  }
  return result;
}

function blobsOf({ result }: JobResult): ArtifactRef[] {
  switch (result.case) {
    case 'encode':
      return result.value.shard === undefined ? [] : [result.value.shard];
    case 'sample':
      return [
        ...result.value.images,
        ...result.value.realImages,
        ...(result.value.latents === undefined ? [] : [result.value.latents]),
      ];
    case 'score':
    case undefined:
      return [];
  }
}

/** How many rows, images or judged images a result has. */
function itemsOf({ result }: JobResult): number {
  switch (result.case) {
    case 'encode':
    case 'sample':
      return result.value.count;
    case 'score':
      return result.value.scores[0]?.values.length ?? 0;
    case undefined:
      return 0;
  }
}

async function work(job: Job, parts: JobHandlerParts, signal: AbortSignal): Promise<JobResult> {
  const started = performance.now();
  const result = create(JobResultSchema, {
    key: job.key,
    worker: parts.workerId,
    runCreatedMs: job.runCreatedMs,
    result: await parts.perform(job, signal),
  });
  result.seconds = (performance.now() - started) / 1000;
  const rejected = result.result.case === 'encode' ? result.result.value.rejected.length : 0;
  const kind = job.work.case ?? 'none';
  parts.instruments.jobDone(kind, result.seconds, itemsOf(result), rejected);
  return result;
}

function publishDone(job: Job, result: JobResult, bus: Pick<Bus, 'publishEvent'>): Promise<void> {
  const { seconds, worker } = result;
  const event = create(EventSchema, {
    runId: job.runId,
    at: timestampNow(),
    fact: {
      case: 'jobDone',
      value: { key: job.key, seconds, worker, items: itemsOf(result) },
    },
  });
  return bus.publishEvent(event, `${job.key}#done`);
}
