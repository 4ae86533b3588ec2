import { setMaxListeners } from 'node:events';
import { create, fromJsonString } from '@bufbuild/protobuf';
import { timestampNow } from '@bufbuild/protobuf/wkt';
import {
  consumers,
  EventSchema,
  JobSchema,
  streams,
  type Event,
  type Job,
  type JobKind,
} from '@spindle/proto';
import { SpanKind } from '@opentelemetry/api';
import type { JetStreamManager, NatsConnection } from 'nats';
import {
  ensureError,
  SpindleError,
  delay,
  linkedAbort,
  type Logger,
  extractContext,
  inSpan,
} from '@spindle/kit';
import type { ConsumeOptions, JobHandler } from './bus.js';
import { natsError } from './errors.js';
import { PullInbox, type Delivery } from './pull.js';
import { untilAborted } from './until-aborted.js';

/** The server's shortest wait for a pull. */
const pullMs = 1_000;
/** A kind that had no new job is asked for again after so long, where others have some. */
const emptyMs = 200;
/** Jobs that are done but for their result's commit, their news and acknowledgement. */
const maxEnding = 16;

/** What the loop needs from the bus beside the connection. */
export interface JobSink {
  publishEvent(event: Event, msgId: string): Promise<void>;
  deadLetter(
    kind: JobKind,
    msg: Delivery,
    job: Job | undefined,
    error: SpindleError,
    attempts: number,
  ): Promise<void>;
  /** Puts the job back as new, so that giving it up in good order does not count as a failure. */
  handBack(msg: Delivery): Promise<void>;
  provision(): Promise<void>;
}

/** What a job loop works with. */
export interface JobLoopParts {
  connection: NatsConnection;
  jsm: JetStreamManager;
  kinds: readonly JobKind[];
  handler: JobHandler;
  options: ConsumeOptions;
  sink: JobSink;
  logger: Logger;
  /** Begins the subject of answers. */
  inboxes?: string | undefined;
}

/** What is known of the new jobs of a kind, and since when. */
interface Waiting {
  count: number;
  at: number;
}

/**
 * The loop of one worker. Modes: looking (which kind has work?) -> pulling one job -> running it ->
 * looking. Entry: run; exit: one of the signals aborts, after which a job that still arrives is
 * handed back. Between two modes no job waits here to be run, so slow workers never hoard. The
 * result of a job that is done is committed, told of and acknowledged beside the next one.
 */
export class JobLoop {
  readonly #inbox: PullInbox;
  readonly #ackWaitMs = new Map<JobKind, number>();
  readonly #waiting = new Map<JobKind, Waiting>();
  readonly #ending = new Set<Promise<void>>();
  #turn = 0;

  readonly #jsm: JetStreamManager;
  readonly #kinds: readonly JobKind[];
  readonly #handler: JobHandler;
  readonly #options: ConsumeOptions;
  readonly #sink: JobSink;
  readonly #logger: Logger;

  constructor(parts: JobLoopParts) {
    const { connection, jsm, kinds, handler, options, sink, logger, inboxes } = parts;
    this.#inbox = new PullInbox(connection, (msg) => this.#handBack(msg), inboxes);
    this.#jsm = jsm;
    this.#kinds = kinds;
    this.#handler = handler;
    this.#options = options;
    this.#sink = sink;
    this.#logger = logger;
  }

  async run(): Promise<void> {
    const { signal, enough = signal } = this.#options;
    // What is ending listens beside the loop.
    setMaxListeners(maxEnding + 10, signal);
    const stop = linkedAbort(signal, enough);
    try {
      await this.#loop(stop.signal);
    } finally {
      stop.cleanup();
      this.#inbox.close();
      await Promise.allSettled([...this.#ending]);
    }
  }

  async #loop(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      try {
        if (this.#ending.size >= maxEnding) await Promise.race(this.#ending);
        await this.#once(signal);
      } catch (error) {
        if (signal.aborted) return;
        const failure = natsError(error, 'waiting for jobs');
        this.#logger.warn({ err: failure }, 'cannot fetch jobs; trying again');
        this.#ackWaitMs.clear();
        this.#waiting.clear();
        await delay(500, signal).catch(() => undefined);
        // The server may have come back without its data.
        if (!signal.aborted)
          await untilAborted(this.#sink.provision(), signal).catch((cause: unknown) =>
            this.#logger.debug({ err: cause }, 'cannot provision'),
          );
      }
    }
  }

  async #once(signal: AbortSignal): Promise<void> {
    const asked = await untilAborted(this.#choose(), signal);
    for (const kind of asked)
      if (!this.#ackWaitMs.has(kind)) await untilAborted(this.#askAckWait(kind), signal);
    const [first, ...others] = asked.map((kind) => consumers[kind]);
    const next = this.#inbox.next(streams.jobs, [first as string, ...others], pullMs);
    const msg = await untilAborted(next, signal);
    const at = performance.now();
    if (!msg) {
      for (const kind of asked) this.#waiting.set(kind, { count: 0, at });
      return;
    }
    const kind = this.#kinds.find((one) => consumers[one] === msg.info.consumer);
    if (kind === undefined || signal.aborted) return this.#sink.handBack(msg);
    this.#waiting.set(kind, { count: msg.info.pending, at });
    await this.#handle(kind, msg, this.#ackWaitMs.get(kind) ?? 0);
  }

  /** With several kinds asked for, one may answer while a job of another is in hand. */
  #handBack(msg: Delivery): void {
    const back = this.#sink
      .handBack(msg)
      .catch((error: unknown) => this.#logger.debug({ err: error }, 'a job comes again'))
      .finally(() => this.#ending.delete(back));
    this.#ending.add(back);
  }

  /**
   * In turn, but a kind without new jobs is passed over. With none anywhere, all are waited for at
   * once: waiting on one would cost the first job of another up to a second.
   */
  async #choose(): Promise<readonly JobKind[]> {
    const order = this.#kinds.map(
      (_, i) => this.#kinds[(this.#turn + i) % this.#kinds.length] as JobKind,
    );
    this.#turn++;
    if (order.length === 0)
      throw new SpindleError('INVALID_ARGUMENT', 'job kinds: expected at least one, got none');
    if (order.length === 1) return order;
    for (const kind of order) if ((await this.#countWaiting(kind)) > 0) return [kind];
    return order;
  }

  /** Every job says how many of its kind come after it, so the server is seldom asked. */
  async #countWaiting(kind: JobKind): Promise<number> {
    const known = this.#waiting.get(kind);
    if (known !== undefined && performance.now() - known.at < emptyMs) return known.count;
    const count = (await this.#jsm.consumers.info(streams.jobs, consumers[kind])).num_pending;
    this.#waiting.set(kind, { count, at: performance.now() });
    return count;
  }

  async #askAckWait(kind: JobKind): Promise<void> {
    const { config } = await this.#jsm.consumers.info(streams.jobs, consumers[kind]);
    this.#ackWaitMs.set(kind, (config.ack_wait ?? 30e9) / 1e6);
  }

  async #handle(kind: JobKind, msg: Delivery, ackWaitMs: number): Promise<void> {
    const attempt = msg.info.attempt;
    const { maxDeliver = 3 } = this.#options;
    const job = readJob(msg);
    if (job instanceof SpindleError) return this.#kill(kind, msg, undefined, job, attempt);
    // No failure was reported for the last delivery, so it ended with the worker: not given a
    // chance to take another one down.
    if (attempt > maxDeliver)
      return this.#kill(
        kind,
        msg,
        job,
        new SpindleError('INTERNAL', `crashed the worker ${maxDeliver} times`),
        maxDeliver,
      );
    const heartbeat = setInterval(() => msg.working(), ackWaitMs / 4);
    const failed = async (error: unknown): Promise<void> => {
      clearInterval(heartbeat);
      await this.#fail(kind, msg, job, attempt, ensureError(error));
    };
    let left: (() => Promise<void>)[];
    try {
      left = await this.#runHandler(kind, msg, job, attempt);
    } catch (error) {
      return failed(error);
    }
    const ending = this.#end(msg, left)
      .catch(failed)
      .catch((error: unknown) =>
        this.#logger.warn({ err: ensureError(error), key: job.key }, 'a job comes again'),
      )
      .finally(() => {
        clearInterval(heartbeat);
        this.#ending.delete(ending);
      });
    this.#ending.add(ending);
  }

  /**
   * The server is not waited for: an acknowledgement that is lost costs a redelivery, which finds
   * the result and does nothing.
   */
  async #end(msg: Delivery, left: readonly (() => Promise<void>)[]): Promise<void> {
    for (const work of left) await untilAborted(work(), this.#options.signal);
    msg.ack();
  }

  /** What is left to be done before the acknowledgement. */
  async #runHandler(
    kind: JobKind,
    msg: Delivery,
    job: Job,
    attempt: number,
  ): Promise<(() => Promise<void>)[]> {
    const left: (() => Promise<void>)[] = [];
    const afterwards = (work: () => Promise<void>): void => void left.push(work);
    const scope = linkedAbort(this.#options.signal);
    try {
      await inSpan(
        `process spindle.jobs.${kind}`,
        {
          'messaging.system': 'nats',
          'messaging.operation.type': 'process',
          'messaging.destination.name': streams.jobs,
          'messaging.consumer.group.name': consumers[kind],
          'spindle.job.key': job.key,
          'spindle.job.attempt': attempt,
          'spindle.worker': this.#options.workerId,
        },
        () => this.#handler(job, { signal: scope.signal, attempt, afterwards }),
        extractContext({
          keys: () => msg.headers?.keys() ?? [],
          get: (key) => msg.headers?.get(key),
        }),
        SpanKind.CONSUMER,
      );
      return left;
    } finally {
      scope.cleanup();
    }
  }

  async #fail(
    kind: JobKind,
    msg: Delivery,
    job: Job,
    attempt: number,
    error: SpindleError,
  ): Promise<void> {
    const { maxDeliver = 3, retryDelayMs = 1_000, signal, workerId } = this.#options;
    if (signal.aborted && error.code === 'CANCELLED') return this.#sink.handBack(msg);
    this.#logger.warn({ err: error, key: job.key, attempt }, 'job failed');
    if (!error.retryable) return this.#kill(kind, msg, job, error, attempt);
    if (attempt >= maxDeliver)
      return this.#kill(
        kind,
        msg,
        job,
        new SpindleError(error.code, `${error.message} (tried ${attempt} times)`),
        attempt,
      );
    msg.nak(Math.min(60_000, retryDelayMs * 2 ** (attempt - 1)));
    await this.#report(msg, job, error.message, attempt, false, workerId);
  }

  /**
   * Dead letter, then the news, then the ack: a crash in between repeats steps that are harmless to
   * repeat.
   */
  async #kill(
    kind: JobKind,
    msg: Delivery,
    job: Job | undefined,
    error: SpindleError,
    attempts: number,
  ): Promise<void> {
    this.#logger.error({ key: job?.key, attempts, reason: error.message }, 'job is given up');
    const { signal, workerId } = this.#options;
    await untilAborted(this.#sink.deadLetter(kind, msg, job, error, attempts), signal);
    if (job) await this.#report(msg, job, error.message, attempts, true, workerId);
    await untilAborted(msg.ackAck(), signal);
  }

  async #report(
    msg: Delivery,
    job: Job,
    reason: string,
    attempt: number,
    dead: boolean,
    worker: string,
  ): Promise<void> {
    const event = create(EventSchema, {
      runId: job.runId,
      at: timestampNow(),
      fact: { case: 'jobFailed', value: { key: job.key, reason, attempt, dead, worker } },
    });
    const msgId = `failed:${job.key}:${msg.info.sequence}:${attempt}:${dead ? 'dead' : 'retry'}`;
    try {
      await untilAborted(this.#sink.publishEvent(event, msgId), this.#options.signal);
    } catch (error) {
      // A dead job must not vanish without news: without the ack it comes again and is reported
      // then.
      if (dead) throw error;
      this.#logger.warn({ err: error, key: job.key }, 'cannot publish that a job failed');
    }
  }
}

function readJob(msg: Delivery): Job | SpindleError {
  try {
    // Fields that a newer version added are no reason to give a job up.
    const job = fromJsonString(JobSchema, msg.string(), { ignoreUnknownFields: true });
    if (job.work.case === undefined || job.key === '')
      return new SpindleError('INVALID_ARGUMENT', 'the job has no key or no work');
    return job;
  } catch (error) {
    return new SpindleError(
      'INVALID_ARGUMENT',
      `the job cannot be read: ${ensureError(error).message}`,
      { cause: error },
    );
  }
}
