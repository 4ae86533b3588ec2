/** The trainer as a whole, on the engine, the store and the bus that it is given. */
import { serve, type Lifecycle } from '@spindle/kit';
import { announceWorker, WorkerState, type Bus, type WorkerContext } from '@spindle/mesh';
import { RankService, TrainerService } from '@spindle/proto';
import type { TrainerEngine } from './engine.js';
import { createInstruments } from './instruments.js';
import type { RankLeader } from './ranks/leader.js';
import { soleRank } from './ranks/ranks.js';
import { createHandlers } from './server.js';

export interface TrainerOptions extends Omit<WorkerContext, 'bus' | 'takesJobs' | 'drainSeconds'> {
  engine: TrainerEngine;
  /** Null, the default, where this process trains alone. */
  ranks?: RankLeader | null;
  bus: Pick<Bus, 'kv' | 'onStatus'>;
  leaseTtlMs?: number;
}

const defaultLeaseTtlMs = 10_000;
// Long enough to write a checkpoint of a large model.
const graceMs = 60_000;

/** Resolves with the port once the service takes calls. */
export async function startTrainer(lifecycle: Lifecycle, options: TrainerOptions): Promise<number> {
  const { engine, ranks = null, store, bus, logger, workerId } = options;
  const state = new WorkerState();
  announceWorker(lifecycle, 'trainer', state, engine.info, options);
  const handlers = createHandlers({
    engine,
    ranks: ranks ?? soleRank,
    store,
    logger,
    instruments: createInstruments(),
    leases: bus.kv('leases'),
    leaseTtlMs: options.leaseTtlMs ?? defaultLeaseTtlMs,
    state,
    workerId,
    stopping: lifecycle.signal,
  });
  return serve(
    lifecycle,
    { ...options, graceMs, onReady: (say) => bus.onStatus(say) },
    (server) => {
      server.addService(TrainerService, handlers);
      if (ranks !== null) server.addService(RankService, ranks.handlers());
    },
  );
}
