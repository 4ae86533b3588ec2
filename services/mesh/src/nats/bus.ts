import type { BucketName, Event, Job, JobKind } from '@spindle/proto';
import { type ErrorCode } from '@spindle/kit';
import type { KvStore } from './kv.js';

export interface JobContext {
  /**
   * Aborts when the worker is told to stop; the job is then handed back and does not count as a
   * failure.
   */
  signal: AbortSignal;
  /** 1 for the first delivery; crashes count. */
  attempt: number;
  /**
   * Called once the work is done, with what is still to be done before the acknowledgement: that
   * goes on beside the next job. Its failure is the job's.
   */
  afterwards(work: () => Promise<void>): void;
}

/** Does a job; what it throws counts as a failure of the job. */
export type JobHandler = (job: Job, context: JobContext) => Promise<void>;

export interface ProvisionOptions {
  /** How long the server waits for a sign of life before it gives a job to another worker. */
  ackWaitMs?: number;
  /** A full queue makes publishers wait. */
  maxQueuedJobs?: number;
  replicas?: number;
  /** Makes the consumers anew: they give out again what is in the stream. Default: false. */
  renewConsumers?: boolean;
}

export interface ConsumeOptions {
  workerId: string;
  /** Ends the job in hand, which is handed back. */
  signal: AbortSignal;
  /** Takes no further job from then on and lets the one in hand end; default: `signal`. */
  enough?: AbortSignal;
  /** Deliveries, crashes included, after which a job is dead-lettered; default 3. */
  maxDeliver?: number;
  /** Wait before the second delivery after a failure; doubles each time. Default 1 s. */
  retryDelayMs?: number;
}

export interface QueueDepth {
  pending: number;
  inFlight: number;
  redelivered: number;
}

export interface DeadLetter {
  key: string;
  reason: string;
  code: ErrorCode;
  attempts: number;
  /** When it was stored, by the server's clock, in milliseconds. */
  at: number;
  /** The job's; 0 for jobs of older versions. */
  runCreatedMs: bigint;
}

/** Work, facts and shared state over NATS JetStream, in terms of the wire contracts. */
export interface Bus {
  serverVersion(): string;
  /**
   * Idempotent: streams, consumers and buckets; what exists with other settings is brought up to
   * date, never deleted.
   */
  provision(options?: ProvisionOptions): Promise<void>;
  /** Waits while the queue is full. The same key and round within ten minutes is one job. */
  publishJob(job: Job, round: number, options?: { signal?: AbortSignal }): Promise<void>;
  /** Removes the run's queued jobs; one in a worker's hand ends there. */
  purgeJobs(runId: string): Promise<void>;
  /** As purgeJobs, and the run's events and dead letters too. */
  purgeRun(runId: string): Promise<void>;
  /**
   * Runs until the signal aborts, with one job in hand over all kinds; what jobs have left to be
   * done afterwards is over too when it returns.
   */
  consumeJobs(
    kinds: readonly JobKind[],
    handler: JobHandler,
    options: ConsumeOptions,
  ): Promise<void>;
  publishEvent(event: Event, msgId?: string): Promise<void>;
  /**
   * Stored events from `fromSequence` (default: the first) on, then live ones, until the signal
   * aborts; of all runs with "*".
   */
  events(
    runId: string,
    options: { fromSequence?: bigint; signal: AbortSignal },
  ): AsyncIterable<{ sequence: bigint; event: Event }>;
  /** The first stored event of a run from a sequence on; null where there is none. */
  eventFrom(
    runId: string,
    fromSequence: bigint,
  ): Promise<{ sequence: bigint; event: Event } | null>;
  /** Sequence of the newest event of all runs; 0 when there is none. */
  lastEventSequence(): Promise<bigint>;
  /** All of them, oldest first: a job that was given up twice has two. */
  deadLetters(runId: string): Promise<DeadLetter[]>;
  kv(bucket: BucketName): KvStore;
  queueDepths(): Promise<Record<JobKind, QueueDepth>>;
  /** Called on every loss and return of the connection. */
  onStatus(fn: (connected: boolean) => void): void;
  close(): Promise<void>;
}
