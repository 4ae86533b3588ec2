/** The scorer as a whole, over whatever engine, store and bus it is given. */
import { serve, type Lifecycle } from '@spindle/kit';
import {
  announceWorker,
  createJobHandler,
  takeJobs,
  WorkerState,
  type WorkerContext,
} from '@spindle/mesh';
import { ScorerService } from '@spindle/proto';
import type { ScorerEngine } from './engine.js';
import { createInstruments } from './instruments.js';
import { perform } from './perform.js';
import { Scorer } from './score.js';
import { createHandlers } from './server.js';

export interface ScorerOptions extends WorkerContext {
  engine: ScorerEngine;
}

const graceMs = 2_000;

/** Resolves when it takes calls and jobs; returns the port. */
export async function startScorer(lifecycle: Lifecycle, options: ScorerOptions): Promise<number> {
  const { engine, store, bus, logger, workerId } = options;
  const scorer = new Scorer(engine, store);
  lifecycle.defer('models', () => scorer.release());
  const state = new WorkerState();
  const handler = createJobHandler({
    service: 'scorer',
    perform: (job, signal) => perform(job, scorer, signal),
    store,
    bus,
    state,
    instruments: createInstruments(),
    logger,
    workerId,
  });
  if (options.takesJobs) takeJobs(lifecycle, ['score'], handler, options);
  announceWorker(lifecycle, 'scorer', state, engine.info, options);
  return serve(
    lifecycle,
    { ...options, graceMs, onReady: (say) => bus.onStatus(say) },
    (server) => {
      server.addService(ScorerService, createHandlers({ engine, scorer }));
    },
  );
}
