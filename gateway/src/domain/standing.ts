/** How far a run is, in a few numbers: what a list of runs shows. */
import { stagesOf } from './plan.js';
import type { StageProgress } from './progress.js';
import { stageOf, type RunState } from './state.js';

export interface Standing {
  /** The furthest one of which a stage has begun; 0 before the first. */
  iteration: number;
  iterations: number;
  /** Share of the stages that is done, from 0 to 1. */
  progress: number;
  /** Mean of the first metric over the best model's images. */
  bestScore: number | undefined;
}

/** `stages` are the state's own, as progressOf has them. */
export function standingOf(state: RunState, stages: readonly StageProgress[]): Standing {
  const begun = stagesOf(state.plan).filter(({ name }) => {
    const { status } = stageOf(state, name);
    return status !== 'waiting' && status !== 'skipped';
  });
  const shares = stages.map(({ state: is, done, total }) =>
    is === 'done' || is === 'skipped' ? 1 : total > 0 ? done / total : 0,
  );
  const [metric] = state.plan.metrics;
  return {
    iteration: Math.max(0, ...begun.map(({ iteration }) => iteration)),
    iterations: state.plan.iterations,
    progress: shares.reduce((sum, share) => sum + share, 0) / Math.max(1, shares.length),
    bestScore: state.results
      .find(({ model }) => model === state.bestModel)
      ?.metrics.find((one) => one.metric === metric)?.mean,
  };
}
