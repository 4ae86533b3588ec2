/**
 * The one place where a stream, subject, consumer, bucket or header name is spelled.
 * A run id or job kind is one subject token: lower-case letters, digits and "-".
 */
import type { Event } from '../gen/spindle/v1/events_pb.js';
import type { Job } from '../gen/spindle/v1/jobs_pb.js';

export const jobKinds = ['encode', 'sample', 'score'] as const;
export type JobKind = (typeof jobKinds)[number];
export type EventType = NonNullable<Event['fact']['case']>;

export const streams = {
  jobs: 'SPINDLE_JOBS',
  events: 'SPINDLE_EVENTS',
  dead: 'SPINDLE_DEAD',
} as const;

/** What each stream captures. */
export const streamSubjects = {
  jobs: 'spindle.jobs.>',
  events: 'spindle.events.>',
  dead: 'spindle.dead.>',
} as const;

/** One durable pull consumer per kind, shared by all workers of that kind. */
export const consumers: Readonly<Record<JobKind, string>> = {
  encode: 'encode-workers',
  sample: 'sample-workers',
  score: 'score-workers',
};

export const buckets = {
  runs: 'spindle_runs',
  leases: 'spindle_leases',
  workers: 'spindle_workers',
} as const;
export type BucketName = keyof typeof buckets;

export const headers = {
  /** Why a job was dead-lettered, in one sentence. */
  reason: 'Spindle-Reason',
  /** How often the job was delivered before it was dead-lettered. */
  attempts: 'Spindle-Attempts',
  /** The error's code: what is not the job's fault (a full disk) is told apart by it. */
  code: 'Spindle-Code',
} as const;

const token = /^[A-Za-z0-9_-]+$/;

export function jobSubject(kind: JobKind, runId: string): string {
  return `spindle.jobs.${kind}.${subjectToken(runId)}`;
}

/** Every run's jobs of one kind: a consumer's filter. */
export function jobFilter(kind: JobKind): string {
  return `spindle.jobs.${kind}.*`;
}

/** Every kind's jobs of one run: what is purged when a run is cancelled. */
export function runJobsFilter(runId: string): string {
  return `spindle.jobs.*.${subjectToken(runId)}`;
}

export function eventSubject(runId: string, type: EventType): string {
  return `spindle.events.${subjectToken(runId)}.${type}`;
}

/** All events of one run, or of every run with "*". */
export function eventFilter(runId: string): string {
  return runId === '*' ? streamSubjects.events : `spindle.events.${subjectToken(runId)}.>`;
}

export function deadSubject(kind: JobKind, runId: string): string {
  return `spindle.dead.${kind}.${subjectToken(runId)}`;
}

export function runDeadFilter(runId: string): string {
  return `spindle.dead.*.${subjectToken(runId)}`;
}

export function jobKind(job: Job): JobKind {
  if (job.work.case === undefined) {
    throw new TypeError(
      `job "${job.key}": work: expected one of ${jobKinds.join(', ')}, got nothing`,
    );
  }
  return job.work.case;
}

function subjectToken(value: string): string {
  if (!token.test(value)) {
    throw new TypeError(`run id: expected letters, digits, "-" and "_", got "${value}"`);
  }
  return value;
}
