/** What models score: which one to keep, and when to stop, by the held-out means. */
import { base, isBaseline, iterationOf, modelName, parseModel, spin, type Model } from './model.js';
import { selectMetric, stagesOf } from './plan.js';
import type { ModelSummary, RunState } from './state.js';

/**
 * Every evaluation restates the earlier models; the newest statement wins, in the order of tables.
 */
export function mergedResults(state: RunState, results: readonly ModelSummary[]): ModelSummary[] {
  const byModel = new Map([...state.results, ...results].map((one) => [one.model, one]));
  return stagesOf(state.plan).flatMap((stage) =>
    stage.kind === 'evaluate' ? (byModel.get(modelName(stage.model)) ?? []) : [],
  );
}

/**
 * The name of the best model so far, empty before any. Base and iterations compete; baselines are
 * there for comparison. Ties go to the earlier one.
 */
export function bestModel(state: RunState): string {
  const metric = selectMetric(state.plan);
  if (metric === undefined) {
    const trained = Object.entries(state.training)
      .map(([name, training]) => ({ model: parseModel(name), training }))
      .filter(({ model, training }) => model.kind === 'spin' && Boolean(training.unet))
      .map(({ model }) => iterationOf(model));
    const last = Math.max(0, ...trained);
    return last === 0 ? '' : modelName(spin(last));
  }
  let best = '';
  let bestMean = -Infinity;
  for (const { model: name } of state.results) {
    const model = parseModel(name);
    const mean = meanOf(state, model, metric);
    if (isBaseline(model) || mean === undefined || mean <= bestMean) continue;
    best = name;
    bestMean = mean;
  }
  return best;
}

/**
 * True when the last `patience` iterations up to `model` have all failed to improve on the best
 * before them.
 */
export function stopsAfter(state: RunState, model: Model): boolean {
  const { stop } = state.plan;
  const last = iterationOf(model);
  if (!stop || last === 0 || last === state.plan.iterations) return false;
  let best = meanOf(state, base, stop.metric) ?? -Infinity;
  let stale = 0;
  for (let k = 1; k <= last; k++) {
    const mean = meanOf(state, spin(k), stop.metric);
    if (mean !== undefined && mean > best) {
      best = mean;
      stale = 0;
    } else {
      stale += 1;
    }
  }
  return stale >= stop.patience;
}

/** Over the prompts that models are chosen by: those of their own, where the run has such. */
function meanOf(state: RunState, model: Model, metric: string): number | undefined {
  const name = modelName(model);
  const summary = state.results
    .find((one) => one.model === name)
    ?.metrics.find((one) => one.metric === metric);
  return state.plan.select ? summary?.select?.mean : summary?.mean;
}
