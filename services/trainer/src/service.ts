/** The trainer as a whole, over whatever engine, store and bus it is given. */
import { heartbeat, serve, type ArtifactStore, type Bus, type Lifecycle, type Logger } from '@spindle/kit';
import { TrainerService } from '@spindle/proto';
import type { TrainerEngine } from './engine.js';
import { createInstruments } from './instruments.js';
import { createHandlers } from './server.js';
import { WorkerState } from './worker_state.js';

export interface TrainerOptions {
  engine: TrainerEngine;
  store: ArtifactStore;
  bus: Pick<Bus, 'kv'>;
  logger: Logger;
  workerId: string;
  address: string;
  portFile: string | undefined;
  leaseTtlMs?: number;
}

const heartbeatMs = 5_000;
const defaultLeaseTtlMs = 10_000;
// Long enough to write a checkpoint of a large model.
const graceMs = 60_000;

/** Resolves when it takes calls; returns the port. */
export async function startTrainer(lifecycle: Lifecycle, options: TrainerOptions): Promise<number> {
  const { engine, store, bus, logger, workerId } = options;
  const { signal } = lifecycle;
  const state = new WorkerState();
  const { backend, isa, threads } = engine.info;
  const describe = (): object => ({
    kind: 'trainer',
    worker: workerId,
    job: state.jobKey,
    jobsDone: state.jobsDone,
    jobsFailed: state.jobsFailed,
    backend,
    isa,
    threads,
  });
  const beating = heartbeat(bus.kv('workers'), `trainer.${workerId}`, describe, { intervalMs: heartbeatMs, signal, logger });
  lifecycle.defer('heartbeat', () => beating);
  const handlers = createHandlers({
    engine,
    store,
    logger,
    instruments: createInstruments(),
    leases: bus.kv('leases'),
    leaseTtlMs: options.leaseTtlMs ?? defaultLeaseTtlMs,
    state,
    workerId,
    stopping: signal,
  });
  return serve(lifecycle, { address: options.address, portFile: options.portFile, graceMs, logger }, (server) =>
    server.addService(TrainerService, handlers),
  );
}
