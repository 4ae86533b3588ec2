/** The sampler as a whole, over whatever engine, store and bus it is given. */
import { heartbeat, serve, type ArtifactStore, type Bus, type Lifecycle, type Logger } from '@spindle/kit';
import { SamplerService } from '@spindle/proto';
import { createJobHandler } from './consumer.js';
import type { SamplerEngine } from './engine.js';
import { createInstruments } from './instruments.js';
import { Models } from './models.js';
import { createHandlers } from './server.js';
import { WorkerState } from './worker_state.js';

export interface SamplerOptions {
  engine: SamplerEngine;
  store: ArtifactStore;
  bus: Bus;
  logger: Logger;
  workerId: string;
  address: string;
  portFile: string | undefined;
}

const heartbeatMs = 5_000;
const graceMs = 2_000;

/** Resolves when it takes calls and jobs; returns the port. */
export async function startSampler(lifecycle: Lifecycle, options: SamplerOptions): Promise<number> {
  const { engine, store, bus, logger, workerId } = options;
  const { signal } = lifecycle;
  const models = new Models(engine, store);
  lifecycle.defer('models', () => models.release());
  const state = new WorkerState();
  const handler = createJobHandler({ store, engine, models, bus, state, instruments: createInstruments(), logger, workerId });
  const consuming = bus.consumeJobs(['encode', 'sample'], handler, { workerId, signal });
  lifecycle.defer('consumer', () => consuming.catch(() => undefined));
  // A queue that ends by itself leaves nothing to do here: let whoever watches the process start it anew.
  consuming.catch((error: unknown) => {
    logger.fatal({ err: error }, 'the job queue is gone');
    process.exitCode = 1;
    lifecycle.shutdown('the job queue is gone').catch(() => undefined);
  });
  const { backend, isa, threads } = engine.info;
  const describe = (): object => ({
    kind: 'sampler',
    worker: workerId,
    job: state.jobKey,
    jobsDone: state.jobsDone,
    jobsFailed: state.jobsFailed,
    backend,
    isa,
    threads,
  });
  const beating = heartbeat(bus.kv('workers'), `sampler.${workerId}`, describe, { intervalMs: heartbeatMs, signal, logger });
  lifecycle.defer('heartbeat', () => beating);
  return serve(lifecycle, { address: options.address, portFile: options.portFile, graceMs, logger }, (server) => {
    server.addService(SamplerService, createHandlers({ store, engine, models, state, workerId }));
  });
}
