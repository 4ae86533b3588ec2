/** Which model to keep, and when to stop, by the held-out means. */
import { isBaseline, iterationOf } from './plan.js';
import type { RunState } from './state.js';

/** Base and iterations compete; baselines are there for comparison. Ties go to the earlier one. */
export function bestModel(state: RunState): string {
  const [metric] = state.plan.metrics;
  if (metric === undefined) {
    const trained = Object.keys(state.training).filter(
      (model) => iterationOf(model) > 0 && state.training[model]?.unet,
    );
    return trained.sort((a, b) => iterationOf(b) - iterationOf(a))[0] ?? '';
  }
  let best = '';
  let bestMean = -Infinity;
  for (const { model } of state.results) {
    const mean = meanOf(state, model, metric);
    if (isBaseline(model) || mean === undefined || mean <= bestMean) continue;
    best = model;
    bestMean = mean;
  }
  return best;
}

/**
 * True when the last `patience` iterations up to `model` have all failed to improve on the best
 * before them.
 */
export function stopsAfter(state: RunState, model: string): boolean {
  const { stop } = state.plan;
  const last = iterationOf(model);
  if (!stop || last === 0 || last === state.plan.iterations) return false;
  let best = meanOf(state, 'base', stop.metric) ?? -Infinity;
  let stale = 0;
  for (let k = 1; k <= last; k++) {
    const mean = meanOf(state, `spin${k}`, stop.metric);
    if (mean !== undefined && mean > best) {
      best = mean;
      stale = 0;
    } else {
      stale += 1;
    }
  }
  return stale >= stop.patience;
}

function meanOf(state: RunState, model: string, metric: string): number | undefined {
  return state.results
    .find((summary) => summary.model === model)
    ?.metrics.find((m) => m.metric === metric)?.mean;
}
