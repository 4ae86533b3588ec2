/**
 * A run that is not running, with another plan: stages that the new plan has more wait, what is
 * done stays done.
 */
import { stagesOf, type RunPlan } from './plan.js';
import type { RunState } from './state.js';

/** What may change once a run has begun. */
export type PlanChange = Partial<
  Pick<RunPlan, 'iterations' | 'stop' | 'maxMissing' | 'sharedDevice'>
>;

/** The plan's part of a config's changes. */
export function planChange(
  plan: RunPlan,
  config: {
    iterations: number;
    max_missing: number;
    resources: { shared_device: boolean };
    stop?: { metric?: string | undefined; patience: number } | undefined;
  },
): PlanChange {
  const [first] = plan.metrics;
  return {
    iterations: config.iterations,
    maxMissing: config.max_missing,
    sharedDevice: config.resources.shared_device,
    stop:
      config.stop && first !== undefined
        ? { metric: config.stop.metric ?? first, patience: config.stop.patience }
        : null,
  };
}

export function replanned(state: RunState, change: PlanChange, note: string): RunState {
  const next = structuredClone(state);
  next.plan = { ...next.plan, ...change };
  for (const { name } of stagesOf(next.plan))
    next.stages[name] ??= {
      status: 'waiting',
      done: [],
      dead: [],
      items: 0,
      activeMs: 0,
      since: null,
    };
  if (note !== '') next.warnings.push(note);
  return next;
}
