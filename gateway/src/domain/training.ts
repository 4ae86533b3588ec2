import type { StepNumbers } from '@spindle/proto';
import { modelName, parseModel, wholeOf } from './model.js';
import type { RunState, TrainingState } from './state.js';

/** Steps that a training's speed is measured over. */
export const recentSteps = 20;

export function trainingOf(state: RunState, model: string): TrainingState {
  return (state.training[model] ??= { last: null, recent: [], unet: null });
}

/**
 * Takes a step in; false when it was seen already (training resumed from a checkpoint before it).
 */
export function recordStep(state: RunState, model: string, metrics: StepNumbers): boolean {
  const training = trainingOf(state, model);
  if (training.last && metrics.step <= training.last.step) return false;
  training.last = metrics;
  training.recent = [...training.recent, { step: metrics.step, seconds: metrics.seconds }].slice(
    -recentSteps,
  );
  return true;
}

/** Goes back to a step: what lies after it comes again. */
export function rewind(state: RunState, model: string, step: number): void {
  const training = trainingOf(state, model);
  training.recent = training.recent.filter((entry) => entry.step <= step);
  if (training.last && training.last.step > step) training.last = null;
}

/** Steps of every training that has ended, by model; those of an iteration's parts are its own. */
export function trainedSteps({ training }: RunState): Map<string, number> {
  const steps = new Map<string, number>();
  for (const [name, { unet, last }] of Object.entries(training)) {
    const model = modelName(wholeOf(parseModel(name)));
    if (unet && last) steps.set(model, Math.max(last.step, steps.get(model) ?? 0));
  }
  return steps;
}
