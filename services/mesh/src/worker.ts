/**
 * What the services that load the engine do alike: start up, say how they are, take jobs from the
 * queue.
 */
import type { JobKind } from '@spindle/proto';
import {
  parseConfig,
  type Lifecycle,
  createLogger,
  type Logger,
  openTransport,
  readToken,
  startTelemetry,
  type Transport,
} from '@spindle/kit';
import { heartbeat } from './heartbeat.js';
import type { Bus, JobHandler } from './nats/bus.js';
import { connectBus } from './nats/connect.js';
import type { NatsService } from './nats/permissions.js';
import { openStore } from './store/remote.js';
import type { ArtifactStore } from './store/store.js';
import { environmentSchema, pickEnvironment, type Environment } from './worker-environment.js';

const heartbeatMs = 5_000;
/** What says goodbye to the message server may take so long. */
const goodbyeMs = 4_000;
/** What handing the job in hand back may take. */
const handBackMs = 120_000;

/** What this worker is doing, for GetWorker and the heartbeat. */
export class WorkerState {
  jobKey = '';
  jobsDone = 0;
  jobsFailed = 0;

  begin(jobKey: string): void {
    this.jobKey = jobKey;
  }

  /** The hand is free; how the job ends is told later. */
  letGo(): void {
    this.jobKey = '';
  }

  count(ok: boolean): void {
    if (ok) this.jobsDone++;
    else this.jobsFailed++;
  }

  end(ok: boolean): void {
    this.letGo();
    this.count(ok);
  }
}

/** What such a service is started with, beside its engine. */
export interface WorkerContext {
  store: ArtifactStore;
  bus: Bus;
  logger: Logger;
  workerId: string;
  address: string;
  portFile: string | undefined;
  /** How long the job in hand may go on once the process is told to stop. */
  drainSeconds: number;
  /** Does it take jobs from the queue? Calls it answers always. */
  takesJobs: boolean;
  /** What callers have to show, and what the message server is shown. */
  token: string | undefined;
  transport?: Transport | undefined;
  healthAddress?: string | undefined;
}

/**
 * Reads the environment, then connects to all that is outside of the process; the lifecycle lets go
 * of it again.
 */
export async function openWorker(
  lifecycle: Lifecycle,
  name: Exclude<NatsService, 'gateway'>,
  variables: Readonly<Record<string, string | undefined>>,
): Promise<{ env: Environment; context: WorkerContext }> {
  const env = parseConfig(
    environmentSchema,
    pickEnvironment(environmentSchema, variables),
    'environment',
  );
  const logger = createLogger(name, { level: env.SPINDLE_LOG_LEVEL });
  const telemetry = startTelemetry({
    service: `spindle-${name}`,
    endpoint: env.OTEL_EXPORTER_OTLP_ENDPOINT,
    instance: env.SPINDLE_WORKER_ID,
  });
  lifecycle.defer('telemetry', () => telemetry.shutdown());
  const token = readToken(env);
  const transport = openTransport(lifecycle, env, logger);
  const store = await openStore(env.SPINDLE_ARTIFACTS, env.SPINDLE_STORE);
  const bus = await connectBus({
    url: env.SPINDLE_NATS_URL,
    token,
    transport,
    name: `${name}-${env.SPINDLE_WORKER_ID}`,
    service: name,
    logger,
    waitMs: 1_000 * env.SPINDLE_NATS_WAIT,
    signal: lifecycle.signal,
  });
  lifecycle.defer('bus', () => bus.close(), goodbyeMs);
  await bus.provision({ replicas: env.SPINDLE_NATS_REPLICAS });
  const workerId = env.SPINDLE_WORKER_ID;
  return {
    env,
    context: {
      store,
      bus,
      logger,
      workerId,
      address: env.SPINDLE_GRPC_ADDRESS,
      portFile: env.SPINDLE_PORT_FILE,
      drainSeconds: env.SPINDLE_DRAIN_SECONDS,
      takesJobs: env.SPINDLE_JOBS === 'on',
      token,
      transport,
      healthAddress: env.SPINDLE_HEALTH_ADDRESS,
    },
  };
}

/** Heartbeats until the process stops: who this is, what it runs on, what it is at. */
export function announceWorker(
  lifecycle: Lifecycle,
  kind: string,
  state: WorkerState,
  engine: { backend: string; isa: string; threads: number },
  { bus, workerId, logger }: { bus: Pick<Bus, 'kv'>; workerId: string; logger: Logger },
): void {
  const { backend, isa, threads } = engine;
  const describe = (): object => ({
    kind,
    worker: workerId,
    job: state.jobKey,
    jobsDone: state.jobsDone,
    jobsFailed: state.jobsFailed,
    backend,
    isa,
    threads,
  });
  const { signal } = lifecycle;
  const beating = heartbeat(bus.kv('workers'), `${kind}.${workerId}`, describe, {
    intervalMs: heartbeatMs,
    signal,
    logger,
  });
  lifecycle.defer('heartbeat', () => beating, goodbyeMs);
}

/**
 * Takes jobs until the process stops; the one in hand is finished where it ends within
 * `drainSeconds`, else handed back.
 */
export function takeJobs(
  lifecycle: Lifecycle,
  kinds: readonly JobKind[],
  handler: JobHandler,
  options: Pick<WorkerContext, 'workerId' | 'logger' | 'drainSeconds'> & {
    bus: Pick<Bus, 'consumeJobs'>;
  },
): void {
  const { bus, workerId, logger, drainSeconds } = options;
  const drained = drainSignal(lifecycle.signal, 1_000 * drainSeconds);
  const { signal } = drained;
  const consuming = bus.consumeJobs(kinds, handler, {
    workerId,
    signal,
    enough: lifecycle.signal,
  });
  const ended = consuming.catch(() => undefined).finally(drained.stop);
  lifecycle.defer('consumer', () => ended, 1_000 * drainSeconds + handBackMs);
  // A queue that ends by itself leaves nothing to do here: let whoever watches the process start it
  // anew.
  consuming.catch((error: unknown) => {
    logger.fatal({ err: error }, 'the job queue is gone');
    process.exitCode = 1;
    lifecycle.shutdown('the job queue is gone').catch(() => undefined);
  });
}

/** Aborts so long after `stopping` does. */
function drainSignal(stopping: AbortSignal, ms: number): { signal: AbortSignal; stop: () => void } {
  if (ms === 0) return { signal: stopping, stop: () => undefined };
  const over = new AbortController();
  let timer: NodeJS.Timeout | undefined;
  const begin = (): void => {
    timer = setTimeout(() => over.abort(stopping.reason), ms);
  };
  if (stopping.aborted) begin();
  else stopping.addEventListener('abort', begin, { once: true });
  const stop = (): void => {
    clearTimeout(timer);
    stopping.removeEventListener('abort', begin);
  };
  return { signal: over.signal, stop };
}
