import { iterationOf } from './plan.js';
import type { RunState, TrainingState, TrainStepMetrics } from './state.js';

/** Steps over which the errors on real images are compared. */
export const gapWindow = 20;

export function trainingOf(state: RunState, model: string): TrainingState {
  return (state.training[model] ??= { last: null, recent: [], warned: false, unet: null });
}

/** Takes a step in; a step that was seen already (training resumed from a checkpoint before it) changes nothing. */
export function recordStep(state: RunState, model: string, metrics: TrainStepMetrics): { changed: boolean; warning: string | null } {
  const training = trainingOf(state, model);
  if (training.last && metrics.step <= training.last.step) return { changed: false, warning: null };
  training.last = metrics;
  const gap = metrics.errorReal - metrics.opponentErrorReal;
  training.recent = [...training.recent, { step: metrics.step, gap, seconds: metrics.seconds }].slice(-gapWindow);
  if (training.warned || iterationOf(model) === 0 || !staysAbove(training.recent.map((entry) => entry.gap))) {
    return { changed: true, warning: null };
  }
  training.warned = true;
  return {
    changed: true,
    warning:
      `train-${model}: at step ${metrics.step} the error on real images has been above the opponent's over the last ${gapWindow} steps; ` +
      'the model is drifting from the data (a lower learning rate or a larger β helps)',
  };
}

/** The mean of the window lies above zero by more than two standard errors, so that noise around zero does not count. */
function staysAbove(gaps: number[]): boolean {
  if (gaps.length < gapWindow) return false;
  const mean = gaps.reduce((sum, gap) => sum + gap, 0) / gaps.length;
  const variance = gaps.reduce((sum, gap) => sum + (gap - mean) ** 2, 0) / (gaps.length - 1);
  return mean > 2 * Math.sqrt(variance / gaps.length);
}
