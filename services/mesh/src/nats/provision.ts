import {
  buckets,
  consumers,
  jobFilter,
  jobKinds,
  streams,
  streamSubjects,
  type BucketName,
} from '@spindle/proto';
import {
  AckPolicy,
  DeliverPolicy,
  DiscardPolicy,
  nanos,
  RetentionPolicy,
  StorageType,
  type ConsumerConfig,
  type JetStreamClient,
  type JetStreamManager,
  type KvOptions,
  type StreamConfig,
} from 'nats';
import { delay, SpindleError } from '@spindle/kit';
import type { ProvisionOptions } from './bus.js';
import { apiErrors, isApiError } from './errors.js';

const second = 1_000;
const day = 86_400 * second;

/** Only features of nats-server 2.9: its API accepts newer options and silently ignores them. */
export async function provision(
  jsm: JetStreamManager,
  js: JetStreamClient,
  options: ProvisionOptions,
): Promise<void> {
  const { ackWaitMs = 20 * second, maxQueuedJobs = 10_000, replicas = 1 } = options;
  const stored = {
    storage: StorageType.File,
    num_replicas: replicas,
    duplicate_window: nanos(600 * second),
  };
  await ensureStream(jsm, {
    ...stored,
    name: streams.jobs,
    subjects: [streamSubjects.jobs],
    retention: RetentionPolicy.Workqueue,
    // Discarding old messages would drop jobs that nobody has seen yet.
    discard: DiscardPolicy.New,
    max_msgs: maxQueuedJobs,
  });
  await ensureStream(jsm, {
    ...stored,
    name: streams.events,
    subjects: [streamSubjects.events],
    retention: RetentionPolicy.Limits,
    discard: DiscardPolicy.Old,
    max_bytes: 256 << 20,
    max_age: nanos(30 * day),
  });
  await ensureStream(jsm, {
    ...stored,
    name: streams.dead,
    subjects: [streamSubjects.dead],
    retention: RetentionPolicy.Limits,
    discard: DiscardPolicy.Old,
    max_bytes: 64 << 20,
    max_age: nanos(30 * day),
  });
  for (const kind of jobKinds) {
    if (options.renewConsumers) await removeConsumer(jsm, streams.jobs, consumers[kind]);
    await ensureConsumer(jsm, streams.jobs, {
      durable_name: consumers[kind],
      filter_subject: jobFilter(kind),
      ack_policy: AckPolicy.Explicit,
      deliver_policy: DeliverPolicy.All,
      ack_wait: nanos(ackWaitMs),
      // Unlimited here: at the server's limit a work queue keeps the message for ever and tells
      // nobody. The worker counts.
      max_deliver: -1,
      // Delayed redeliveries count as pending, so a small limit would look like a hang.
      max_ack_pending: maxQueuedJobs,
      num_replicas: replicas,
    });
  }
  for (const [name, kv] of Object.entries(bucketOptions)) {
    await js.views.kv(buckets[name as BucketName], { ...kv, storage: StorageType.File, replicas });
  }
}

const lookMs = 250;

/** For those who may not provision: waits until someone else has. */
export async function untilProvisioned(jsm: JetStreamManager, waitMs: number): Promise<void> {
  const until = performance.now() + waitMs;
  for (;;) {
    try {
      // What provisioning makes last.
      await jsm.streams.info(`KV_${buckets.workers}`);
      return;
    } catch (error) {
      if (!isApiError(error, apiErrors.streamNotFound)) throw error;
      if (performance.now() >= until)
        throw new SpindleError(
          'UNAVAILABLE',
          'the queue has not been made yet, and this user of NATS may not make it; is the gateway ' +
            'running?',
          { cause: error },
        );
    }
    await delay(lookMs);
  }
}

const bucketOptions: Readonly<Record<BucketName, Partial<KvOptions>>> = {
  // The history is an audit trail of a run's states.
  runs: { history: 32 },
  // Leases and heartbeats refresh far more often than these; what is left behind disappears.
  leases: { history: 1, ttl: 600 * second },
  workers: { history: 1, ttl: 30 * second },
};

async function ensureStream(
  jsm: JetStreamManager,
  config: Partial<StreamConfig> & { name: string },
): Promise<void> {
  try {
    await jsm.streams.add(config);
  } catch (error) {
    if (!isApiError(error, apiErrors.streamNameInUse)) throw error;
    await jsm.streams.update(config.name, config);
  }
}

async function removeConsumer(jsm: JetStreamManager, stream: string, name: string): Promise<void> {
  try {
    await jsm.consumers.delete(stream, name);
  } catch (error) {
    if (!isApiError(error, apiErrors.consumerNotFound)) throw error;
  }
}

async function ensureConsumer(
  jsm: JetStreamManager,
  stream: string,
  config: Partial<ConsumerConfig> & { durable_name: string },
): Promise<void> {
  try {
    await jsm.consumers.info(stream, config.durable_name);
  } catch (error) {
    if (!isApiError(error, apiErrors.consumerNotFound)) throw error;
    // Adding an equal consumer twice is fine, so two processes may provision at once.
    await jsm.consumers.add(stream, config);
    return;
  }
  await jsm.consumers.update(stream, config.durable_name, config);
}
