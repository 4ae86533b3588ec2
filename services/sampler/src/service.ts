/** The sampler as a whole, over whatever engine, store and bus it is given. */
import { ImageReader, openFiles } from '@spindle/data';
import { serve, type Lifecycle } from '@spindle/kit';
import {
  announceWorker,
  createJobHandler,
  takeJobs,
  WorkerState,
  type WorkerContext,
} from '@spindle/mesh';
import { SamplerService } from '@spindle/proto';
import { EncodeCache } from './encode-cache.js';
import type { SamplerEngine } from './engine.js';
import { createInstruments } from './instruments.js';
import { Manifests } from './manifests.js';
import { Models } from './models.js';
import { perform } from './perform.js';
import { RowCache } from './row-cache.js';
import { createHandlers } from './server.js';

export interface SamplerOptions extends WorkerContext {
  engine: SamplerEngine;
}

const graceMs = 2_000;

/** Resolves when it takes calls and jobs; returns the port. */
export async function startSampler(lifecycle: Lifecycle, options: SamplerOptions): Promise<number> {
  const { engine, store, bus, logger, workerId } = options;
  const models = new Models(engine, store);
  lifecycle.defer('models', () => models.release());
  const state = new WorkerState();
  const images = new ImageReader(openFiles());
  const deps = {
    store,
    engine,
    models,
    images,
    cache: new EncodeCache(store, images, engine.info),
    rows: new RowCache(store),
    manifests: new Manifests(store),
  };
  const handler = createJobHandler({
    service: 'sampler',
    perform: (job, signal) => perform(job, deps, signal),
    store,
    bus,
    state,
    instruments: createInstruments(),
    logger,
    workerId,
  });
  if (options.takesJobs) takeJobs(lifecycle, ['encode', 'sample'], handler, options);
  announceWorker(lifecycle, 'sampler', state, engine.info, options);
  return serve(
    lifecycle,
    { ...options, graceMs, onReady: (say) => bus.onStatus(say) },
    (server) => {
      server.addService(SamplerService, createHandlers({ store, engine, models, state, workerId }));
    },
  );
}
