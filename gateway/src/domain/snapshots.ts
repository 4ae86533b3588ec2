/** What trainings leave on the way, for their judges: how long it is needed. */
import { bestStep, judgingOf } from './judging.js';
import { modelName, type Model } from './model.js';
import { stagesOf, trainingSteps } from './plan.js';
import { stageName } from './stage.js';
import { isOver, stageOf, type RunState, type StoredBlob, type StoredUnet } from './state.js';

/** Whether every judged step has its scores, or is given up. */
export function isJudged(state: RunState, model: Model): boolean {
  return isOver(stageOf(state, stageName({ kind: 'judge-score', model })));
}

/**
 * Steps whose weights nothing needs any more: they are judged, and another one is kept. Those of
 * the last step stay while the training has not ended, since whoever asks the trainer again gets
 * them.
 */
export function neededNoMore(state: RunState, model: Model): number[] {
  const own = state.training[modelName(model)];
  const judging = judgingOf(state.plan, model);
  if (!own?.snapshots || !judging) return [];
  const { judged = {}, snapshots } = own;
  const last = trainingSteps(state.plan, model);
  const kept = own.kept ?? (judging.keep === 'best' ? bestStep(judged) : last);
  const over = isJudged(state, model);
  return Object.keys(snapshots)
    .map(Number)
    .filter((step) => step !== kept && (over || step in judged))
    .filter((step) => step !== last || Boolean(own.unet));
}

/** Whether the training has ended and is judged: nothing more comes of it. */
export function isSettled(state: RunState, model: Model): boolean {
  return Boolean(state.training[modelName(model)]?.unet) && isJudged(state, model);
}

/** Digests of the weights that a run needs: its models', and those that are still to be judged. */
export function namedBlobs(state: RunState): ReadonlySet<string> {
  const kept = stagesOf(state.plan).flatMap((stage) => {
    if (stage.kind !== 'train') return [];
    const { unet, average, snapshots = {} } = state.training[modelName(stage.model)] ?? {};
    const needless = new Set(neededNoMore(state, stage.model));
    const needed = Object.entries(snapshots).filter(([step]) => !needless.has(Number(step)));
    return [unet, average, ...needed.flatMap(([, one]) => [one.unet, one.average])];
  });
  return new Set(kept.flatMap((unet) => (unet ? blobsOf(unet).map(({ digest }) => digest) : [])));
}

/** Those of a size: a config is shared with the model that training began from. */
export function blobsOf({ weights, adapter }: StoredUnet): StoredBlob[] {
  return adapter ? [weights, adapter] : [weights];
}
