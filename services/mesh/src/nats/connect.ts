import { fromJsonString, toJsonString } from '@bufbuild/protobuf';
import {
  buckets,
  consumers,
  deadSubject,
  eventFilter,
  eventSubject,
  EventSchema,
  headers as headerNames,
  jobKind,
  jobKinds,
  JobSchema,
  jobSubject,
  runDeadFilter,
  runJobsFilter,
  streams,
  type BucketName,
  type Event,
  type Job,
  type JobKind,
} from '@spindle/proto';
import { SpanKind } from '@opentelemetry/api';
import {
  connect,
  Events,
  headers,
  NatsError,
  type JetStreamClient,
  type JetStreamManager,
  type JsMsg,
  type KV,
  type NatsConnection,
} from 'nats';
import { randomUUID } from 'node:crypto';
import {
  delay,
  ensureError,
  isErrorCode,
  SpindleError,
  type Logger,
  type Transport,
  injectContext,
  inSpan,
  within,
} from '@spindle/kit';
import type {
  Bus,
  ConsumeOptions,
  DeadLetter,
  JobHandler,
  ProvisionOptions,
  QueueDepth,
} from './bus.js';
import { natsAccess, withoutSecret } from './access.js';
import { JobLoop, type JobSink } from './consume.js';
import { natsError, orRebuilt } from './errors.js';
import { readEvents, storedEvent } from './events.js';
import { NatsKv, type KvStore } from './kv.js';
import { inboxPrefix, type NatsService } from './permissions.js';
import { provision, untilProvisioned } from './provision.js';
import type { Delivery } from './pull.js';
import { publishStored } from './publish.js';

const retryMs = 500;

export interface ConnectOptions {
  url: string;
  /** Shown where the address itself has no credentials. */
  token?: string | undefined;
  transport?: Transport | undefined;
  name: string;
  /** The user of NATS that it may be; only its answers come to it then. */
  service?: NatsService | undefined;
  logger: Logger;
  /** How long to wait for a server that does not answer yet; default 0. */
  waitMs?: number;
  /** Ends the wait. */
  signal?: AbortSignal;
}

/**
 * Rejects with UNAVAILABLE when no server answers in time, and with UNAUTHENTICATED when it does
 * not take the token; once connected it reconnects for ever.
 */
export async function connectBus(options: ConnectOptions): Promise<Bus> {
  const { logger, waitMs = 0, signal } = options;
  const until = Date.now() + waitMs;
  for (let first = true; ; first = false) {
    try {
      const connection = await connectOnce(options);
      const jsm = await connection.jetstreamManager({ checkAPI: false, timeout: 5_000 });
      return new NatsBus(connection, jsm, options);
    } catch (thrown) {
      const error = ensureError(thrown);
      if (error.code !== 'UNAVAILABLE' || Date.now() + retryMs > until) throw error;
      if (first) logger.warn({ err: error }, 'waiting for the message server');
      await delay(retryMs, signal);
    }
  }
}

async function connectOnce(options: ConnectOptions): Promise<NatsConnection> {
  const { url, token, transport, name, service } = options;
  const access = natsAccess(url, token, transport);
  try {
    return await connect({
      ...access,
      ...(service && { inboxPrefix: inboxPrefix(service) }),
      name,
      timeout: 5_000,
      maxReconnectAttempts: -1,
      reconnectTimeWait: 250,
      reconnectJitter: 100,
      pingInterval: 10_000,
      maxPingOut: 3,
      // Otherwise every request takes a stack trace beforehand, in case it fails.
      noAsyncTraces: true,
    });
  } catch (cause) {
    const where = withoutSecret(url);
    if (cause instanceof NatsError && cause.isAuthError())
      throw new SpindleError(
        'UNAUTHENTICATED',
        `the NATS server at ${where} refuses this token; SPINDLE_TOKEN, or the credentials in ` +
          'its address, have to be those in its config',
        { cause },
      );
    const message = access.tls
      ? `no NATS server answers at ${where} over TLS: ${ensureError(cause).message}`
      : `no NATS server answers at ${where}; "npm start" starts one, or run "nats-server -js" ` +
        'yourself';
    throw new SpindleError('UNAVAILABLE', message, { cause });
  }
}

class NatsBus implements Bus, JobSink {
  readonly #js: JetStreamClient;
  readonly #opened = new Map<BucketName, Promise<KV>>();
  readonly #listeners = new Set<(connected: boolean) => void>();
  #provisioned: ProvisionOptions = {};
  #mayProvision = true;

  readonly #connection: NatsConnection;
  readonly #jsm: JetStreamManager;
  readonly #logger: Logger;
  readonly #inboxes: string | undefined;
  readonly #waitMs: number;

  constructor(connection: NatsConnection, jsm: JetStreamManager, options: ConnectOptions) {
    this.#connection = connection;
    this.#jsm = jsm;
    this.#logger = options.logger;
    this.#inboxes = options.service && inboxPrefix(options.service);
    this.#waitMs = options.waitMs ?? 0;
    this.#js = connection.jetstream({ timeout: 5_000 });
    void this.#followStatus();
  }

  serverVersion(): string {
    return this.#connection.info?.version ?? 'unknown';
  }

  async provision({ renewConsumers = false, ...options }: ProvisionOptions = {}): Promise<void> {
    this.#provisioned = { ...this.#provisioned, ...options };
    // Buckets that were opened before belong to streams that may be gone.
    this.#opened.clear();
    try {
      if (this.#mayProvision) {
        await provision(this.#jsm, this.#js, { ...this.#provisioned, renewConsumers });
        return;
      }
    } catch (error) {
      if (!(error instanceof NatsError && error.isPermissionError()))
        throw natsError(error, 'provisioning JetStream');
      this.#mayProvision = false;
    }
    try {
      await untilProvisioned(this.#jsm, this.#waitMs);
    } catch (error) {
      throw natsError(error, 'provisioning JetStream');
    }
  }

  async publishJob(job: Job, round: number, options: { signal?: AbortSignal } = {}): Promise<void> {
    const kind = jobKind(job);
    const attributes = {
      'messaging.system': 'nats',
      'messaging.operation.type': 'send',
      'messaging.destination.name': streams.jobs,
      'spindle.job.key': job.key,
    };
    await inSpan(
      `send spindle.jobs.${kind}`,
      attributes,
      async () => {
        const carrier = headers();
        injectContext(carrier);
        await publishStored(this.#js, {
          subject: jobSubject(kind, job.runId),
          payload: toJsonString(JobSchema, job),
          headers: carrier,
          // Of a deleted run the server still remembers the jobs.
          msgId: `${job.key}#${job.runCreatedMs}.${round}`,
          signal: options.signal,
          onFull: () =>
            this.#logger.info({ key: job.key }, 'the job queue is full; waiting for room'),
        });
      },
      undefined,
      SpanKind.PRODUCER,
    );
  }

  async purgeJobs(runId: string): Promise<void> {
    await this.#purge(streams.jobs, runJobsFilter(runId));
  }

  async purgeRun(runId: string): Promise<void> {
    await this.purgeJobs(runId);
    await this.#purge(streams.dead, runDeadFilter(runId));
    await this.#purge(streams.events, eventFilter(runId));
  }

  async consumeJobs(
    kinds: readonly JobKind[],
    handler: JobHandler,
    options: ConsumeOptions,
  ): Promise<void> {
    const logger = this.#logger.child({ worker: options.workerId });
    await new JobLoop({
      connection: this.#connection,
      jsm: this.#jsm,
      kinds,
      handler,
      options,
      sink: this,
      logger,
      inboxes: this.#inboxes,
    }).run();
  }

  async publishEvent(event: Event, msgId: string = randomUUID()): Promise<void> {
    const { fact, runId } = event;
    if (fact.case === undefined)
      throw new SpindleError(
        'INVALID_ARGUMENT',
        `event of run "${runId}": fact: expected one, got nothing`,
      );
    const carrier = headers();
    injectContext(carrier);
    await publishStored(this.#js, {
      subject: eventSubject(runId, fact.case),
      payload: toJsonString(EventSchema, event),
      headers: carrier,
      msgId,
    });
  }

  events(
    runId: string,
    options: { fromSequence?: bigint; signal: AbortSignal },
  ): AsyncIterable<{ sequence: bigint; event: Event }> {
    return readEvents(
      this.#js,
      this.#jsm,
      this.#logger,
      (fn) => this.#onReconnect(fn),
      runId,
      options,
    );
  }

  async eventFrom(
    runId: string,
    fromSequence: bigint,
  ): Promise<{ sequence: bigint; event: Event } | null> {
    return this.#run('reading an event', () => storedEvent(this.#jsm, runId, fromSequence));
  }

  async lastEventSequence(): Promise<bigint> {
    const { state } = await this.#run('reading the events stream', () =>
      this.#jsm.streams.info(streams.events),
    );
    return BigInt(state.last_seq);
  }

  async deadLetters(runId: string): Promise<DeadLetter[]> {
    return this.#run('reading dead letters', async () => {
      const consumer = await this.#js.consumers.get(streams.dead, {
        filterSubjects: runDeadFilter(runId),
      });
      try {
        const { num_pending: count } = await consumer.info();
        const found: DeadLetter[] = [];
        if (count === 0) return found;
        for await (const msg of await consumer.fetch({ max_messages: count, expires: 5_000 })) {
          found.push(readDeadLetter(msg));
          if (msg.info.pending === 0) break;
        }
        return found;
      } finally {
        // The server would keep it for minutes more.
        void consumer.delete().catch(() => undefined);
      }
    });
  }

  kv(bucket: BucketName): KvStore {
    const open = (): Promise<KV> => {
      let opened = this.#opened.get(bucket);
      if (!opened) {
        opened = this.#js.views.kv(buckets[bucket], { bindOnly: true });
        this.#opened.set(bucket, opened);
        opened.catch(() => this.#opened.delete(bucket));
      }
      return opened;
    };
    return new NatsKv(buckets[bucket], open, () => this.provision());
  }

  async queueDepths(): Promise<Record<JobKind, QueueDepth>> {
    const depths = {} as Record<JobKind, QueueDepth>;
    for (const kind of jobKinds) {
      const info = await this.#run('reading the queues', () =>
        this.#jsm.consumers.info(streams.jobs, consumers[kind]),
      );
      depths[kind] = {
        pending: info.num_pending,
        inFlight: info.num_ack_pending,
        redelivered: info.num_redelivered,
      };
    }
    return depths;
  }

  onStatus(fn: (connected: boolean) => void): void {
    this.#listeners.add(fn);
  }

  async close(): Promise<void> {
    if (this.#connection.isClosed()) return;
    try {
      // Sends what is under way; without a server it could wait for ever.
      const drained = await Promise.race([
        this.#connection.drain().then(() => true),
        sleepUnref(2_000),
      ]);
      if (!drained) await within(1_000, this.#connection.close());
    } catch {
      await within(1_000, this.#connection.close());
    }
  }

  async deadLetter(
    kind: JobKind,
    msg: Delivery,
    job: Job | undefined,
    error: SpindleError,
    attempts: number,
  ): Promise<void> {
    const carrier = headers();
    injectContext(carrier);
    // A header is one line.
    carrier.set(headerNames.reason, error.message.replace(/\s+/g, ' ').slice(0, 2_000));
    carrier.set(headerNames.code, error.code);
    carrier.set(headerNames.attempts, String(attempts));
    const runId = job?.runId ?? msg.subject.split('.').at(-1) ?? 'unknown';
    await publishStored(this.#js, {
      subject: deadSubject(kind, runId),
      payload: msg.string(),
      headers: carrier,
      msgId: `dead:${msg.info.sequence}:${msg.info.timestampNanos}`,
    });
  }

  async handBack(msg: Delivery): Promise<void> {
    const carrier = headers();
    for (const key of msg.headers?.keys() ?? []) {
      if (!key.startsWith('Nats-')) carrier.set(key, msg.headers?.get(key) ?? '');
    }
    try {
      await this.#js.publish(msg.subject, msg.data, {
        msgID: randomUUID(),
        headers: carrier,
        timeout: 2_000,
      });
    } catch (error) {
      // No room or no server: giving it back costs one delivery then.
      this.#logger.debug(
        { err: natsError(error, 'handing a job back') },
        'a job is handed back as a redelivery',
      );
      msg.nak();
      return;
    }
    await msg.ackAck();
  }

  #onReconnect(fn: () => void): () => void {
    const listener = (connected: boolean): void => {
      if (connected) fn();
    };
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  async #purge(stream: string, filter: string): Promise<void> {
    await this.#run(`purging ${filter}`, () => this.#jsm.streams.purge(stream, { filter }));
  }

  async #run<T>(doing: string, fn: () => Promise<T>): Promise<T> {
    try {
      return await orRebuilt(fn, () => this.provision());
    } catch (error) {
      throw natsError(error, doing);
    }
  }

  async #followStatus(): Promise<void> {
    for await (const status of this.#connection.status()) {
      if (status.type !== Events.Disconnect && status.type !== Events.Reconnect) continue;
      const connected = status.type === Events.Reconnect;
      if (!this.#connection.isDraining())
        this.#logger.warn(
          { server: status.data },
          connected ? 'NATS is back' : 'lost the connection to NATS',
        );
      for (const listener of this.#listeners) listener(connected);
    }
  }
}

function readDeadLetter(msg: JsMsg): DeadLetter {
  let key = msg.subject;
  let runCreatedMs = 0n;
  try {
    const job = fromJsonString(JobSchema, msg.string(), { ignoreUnknownFields: true });
    key = job.key || key;
    runCreatedMs = job.runCreatedMs;
  } catch {
    // That it cannot be read is why it is here; the subject is all that names it.
  }
  const header = (name: string): string => msg.headers?.get(name) ?? '';
  const code = header(headerNames.code);
  return {
    key,
    reason: header(headerNames.reason),
    code: isErrorCode(code) ? code : 'INTERNAL',
    attempts: Number(header(headerNames.attempts)),
    at: Math.floor(msg.info.timestampNanos / 1e6),
    runCreatedMs,
  };
}

function sleepUnref(ms: number): Promise<false> {
  return new Promise((resolve) => setTimeout(() => resolve(false), ms).unref());
}
