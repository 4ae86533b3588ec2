/** The evaluator as a whole: pure functions of the store behind two calls. */
import { serve, type Lifecycle, type Logger, type Transport } from '@spindle/kit';
import { type ArtifactStore } from '@spindle/mesh';
import { EvaluatorService } from '@spindle/proto';
import { createInstruments } from './instruments.js';
import { createHandlers } from './server.js';

export interface EvaluatorOptions {
  store: ArtifactStore;
  logger: Logger;
  address: string;
  portFile: string | undefined;
  token: string | undefined;
  transport?: Transport | undefined;
  healthAddress?: string | undefined;
  /** The artifacts folder: reports are written below it alone. */
  root: string;
}

const graceMs = 10_000;

/** Resolves when it takes calls; returns the port. */
export function startEvaluator(lifecycle: Lifecycle, options: EvaluatorOptions): Promise<number> {
  const { store, root } = options;
  return serve(lifecycle, { ...options, graceMs }, (server) => {
    server.addService(EvaluatorService, createHandlers({ store, root }, createInstruments()));
  });
}
