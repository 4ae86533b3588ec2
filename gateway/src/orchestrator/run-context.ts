/**
 * What everyone who works for a run is given of it. The driver makes one; nobody else knows the
 * driver. Work comes back to it as events alone.
 */
import { ensureError } from '@spindle/kit';
import type { RunEvent } from '../domain/machine.js';
import type { RunState } from '../domain/state.js';
import type { MetricsLog } from './metrics-log.js';
import type { OrchestratorPorts } from './ports.js';
import type { RunRecord } from './record.js';
import type { ResultReader } from './results.js';
import type { RunTexts } from './texts.js';

/** An event without its time: the driver's clock stamps it when its turn comes. */
export type NewEvent = RunEvent extends infer E
  ? E extends RunEvent
    ? Omit<E, 'at'>
    : never
  : never;

export interface RunContext {
  ports: OrchestratorPorts;
  /** The run's folder, for people. */
  directory: string;
  results: ResultReader;
  metrics: MetricsLog;
  /** Aborts when this process lets go of the run, or has lost it to another one. */
  stop: AbortSignal;
  /** As it is now. */
  record: () => RunRecord;
  texts: () => Promise<RunTexts>;
  /** The one way back: what has happened, in the order in which it is told. */
  dispatch: (event: NewEvent) => Promise<RunRecord>;
  /** Resolves once the state is so; rejects when `signal` aborts. */
  until: (isSo: (state: RunState) => boolean, signal: AbortSignal) => Promise<void>;
  /** Whether a model of any run has this blob; true where that cannot be told. */
  isNamed: (digest: string) => boolean;
}

/** For work that nobody waits for: a failure is logged, unless the run was let go of. */
export async function background(context: RunContext, work: Promise<unknown>): Promise<void> {
  await work.catch((thrown: unknown) => {
    if (context.stop.aborted) return;
    const run = context.record().runId;
    context.ports.logger.warn({ err: ensureError(thrown), run }, 'background work failed');
  });
}
