/**
 * Score jobs from the queue: a stored result is the proof of work done, so a job is done once
 * whatever is redelivered.
 */
import { create, fromJsonString, toJsonString } from '@bufbuild/protobuf';
import { timestampNow } from '@bufbuild/protobuf/wkt';
import { ensureError, inSpan, SpindleError, type Logger } from '@spindle/kit';
import { type ArtifactStore, type Bus, type JobContext, type WorkerState } from '@spindle/mesh';
import {
  EventSchema,
  JobResultSchema,
  ScoreResultSchema,
  type Job,
  type JobResult,
} from '@spindle/proto';
import type { Instruments } from './instruments.js';
import type { Scorer } from './score.js';

export interface ConsumerDeps {
  store: ArtifactStore;
  scorer: Scorer;
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
      'scorer.job',
      {
        'spindle.job.key': job.key,
        'spindle.job.kind': 'score',
        'spindle.job.attempt': context.attempt,
      },
      async () => {
        deps.state.begin(job.key);
        try {
          const known = await deps.store.getResult(job.key);
          const result =
            known === null
              ? await work(job, deps, context.signal)
              : fromJsonString(JobResultSchema, known);
          await publishDone(job, result, deps);
          deps.state.end(true);
        } catch (thrown) {
          const error = ensureError(thrown);
          deps.state.end(false);
          deps.instruments.jobFailed(error.code);
          deps.logger.warn({ key: job.key, attempt: context.attempt, err: error }, 'job failed');
          throw error;
        }
      },
    );
}

async function work(job: Job, deps: ConsumerDeps, signal: AbortSignal): Promise<JobResult> {
  if (job.work.case !== 'score')
    throw new SpindleError(
      'INVALID_ARGUMENT',
      `${job.key}: work: expected score, got ${job.work.case ?? 'nothing'}`,
    );
  const started = performance.now();
  const { metrics, items } = job.work.value;
  const scores = await deps.scorer.score(metrics, items, signal);
  const seconds = (performance.now() - started) / 1000;
  const result = create(JobResultSchema, {
    key: job.key,
    worker: deps.workerId,
    seconds,
    result: { case: 'score', value: create(ScoreResultSchema, { scores }) },
  });
  deps.instruments.jobDone(seconds, items.length);
  // Another worker may have been first after a redelivery: its result is the same data and stands.
  if (
    (await deps.store.commitResult(job.key, toJsonString(JobResultSchema, result))) === 'committed'
  )
    return result;
  return fromJsonString(JobResultSchema, (await deps.store.getResult(job.key)) ?? '');
}

function publishDone(job: Job, result: JobResult, deps: ConsumerDeps): Promise<void> {
  const items =
    result.result.case === 'score' ? (result.result.value.scores[0]?.values.length ?? 0) : 0;
  const event = create(EventSchema, {
    runId: job.runId,
    at: timestampNow(),
    fact: {
      case: 'jobDone',
      value: { key: job.key, seconds: result.seconds, worker: result.worker, items },
    },
  });
  return deps.bus.publishEvent(event, `${job.key}#done`);
}
