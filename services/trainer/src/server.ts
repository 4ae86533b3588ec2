/** TrainerService. A process trains one request at a time; one process at a time trains a key. */
import { inSpan, linkedAbort, SpindleError, type ServiceHandlers } from '@spindle/kit';
import {
  isLeftOver,
  Lease,
  type ArtifactStore,
  type KvStore,
  type WorkerState,
} from '@spindle/mesh';
import { type TrainFinished, type TrainerService, type TrainRequest } from '@spindle/proto';
import type { Response, TrainingDeps } from './call.js';
import { FifoMutex } from './mutex.js';
import { parseFinished } from './result.js';
import { train } from './training.js';

export interface ServerDeps extends TrainingDeps {
  leases: KvStore;
  leaseTtlMs: number;
  state: WorkerState;
  workerId: string;
  /** Aborts when the process stops. The training then checkpoints and ends. */
  stopping: AbortSignal;
}

export function createHandlers(deps: ServerDeps): ServiceHandlers<typeof TrainerService> {
  const mutex = new FifoMutex();
  return { train: (request, { signal }) => serveTrain(request, deps, mutex, signal) };
}

async function* serveTrain(
  request: TrainRequest,
  deps: ServerDeps,
  mutex: FifoMutex,
  caller: AbortSignal,
): AsyncGenerator<Response> {
  if (request.key === '' || request.runId === '') {
    throw new SpindleError(
      'INVALID_ARGUMENT',
      'key and run_id: expected both, got nothing for one',
    );
  }
  using outer = linkedAbort(caller, deps.stopping);
  const release = await mutex.acquire(outer.signal);
  try {
    const known = await committed(request, deps);
    if (known !== null) {
      yield known;
      return;
    }
    // A trainer that was only paused must find out that another has taken over before it writes the
    // result.
    const lease = await Lease.acquire(deps.leases, `trainer.${request.key}`, deps.workerId, {
      ttlMs: deps.leaseTtlMs,
      signal: outer.signal,
      onWait: (holder) =>
        deps.logger.warn(
          { holder },
          holder === null
            ? `${request.key}: NATS does not answer; waiting for it before training goes on`
            : `${request.key}: trainer "${holder}" is at it; waiting until it has let go`,
        ),
    });
    using linked = linkedAbort(outer.signal, lease.lost);
    deps.state.begin(request.key);
    let ok = false;
    try {
      // Waiting for the lease may have meant waiting for the other one to finish.
      const finished = await committed(request, deps);
      if (finished === null) yield* train(request, deps, linked.signal, lease);
      else yield finished;
      ok = true;
    } finally {
      deps.state.end(ok);
      await lease
        .release()
        .catch((error: unknown) => deps.logger.debug({ err: error }, 'lease not released'));
    }
  } finally {
    release();
  }
}

/** Null where training has not ended yet, and where it has to be done again. */
async function committed(
  request: TrainRequest,
  { store, logger }: ServerDeps,
): Promise<Response | null> {
  const { key } = request;
  const json = await store.getResult(key);
  // What a training that goes on has left lies below its key.
  if (json === null) return null;
  const finished = parseFinished(json);
  const isOurs = finished !== null && !(await isLeftOver(key, finished, request, store));
  if (!isOurs || !(await hasBlobs(finished, store))) {
    // Damaged, of a deleted run, or without its blobs: it would keep the next result out.
    await store.deleteResults(key);
    return null;
  }
  // A process that was killed after it committed has left them.
  await store
    .deleteCheckpoints(key)
    .catch((error: unknown) => logger.warn({ err: error, key }, 'checkpoints are left behind'));
  return inSpan('trainer.known', { 'spindle.job.key': key }, async () => ({
    event: { case: 'finished', value: finished },
  }));
}

async function hasBlobs(
  { unet, adapter, average, averageAdapter }: TrainFinished,
  store: ArtifactStore,
): Promise<boolean> {
  if (!unet?.config || !unet.weights) return false;
  for (const ref of [unet.config, unet.weights, adapter, average?.weights, averageAdapter])
    if (ref && !(await store.has(ref))) return false;
  return true;
}
