/** A training that is judged: what it leaves on the way, and what of that becomes the model. */
import { fromJsonString } from '@bufbuild/protobuf';
import { TrainFinishedSchema, type TrainFinished } from '@spindle/proto';
import { snapshotKey } from '@spindle/mesh';
import { bestStep, judgingOf } from '../domain/judging.js';
import { modelName, type Model } from '../domain/model.js';
import { judgedSteps, trainingSteps, trainKey } from '../domain/plan.js';
import { blobsOf, isJudged } from '../domain/snapshots.js';
import { stageName } from '../domain/stage.js';
import { stageOf, type Snapshot } from '../domain/state.js';
import { createdMs } from './record.js';
import type { RunContext } from './run-context.js';
import { toRef, toStoredUnet } from './wire.js';

/** What a training ends in, or would have ended in after fewer steps. */
export function toSnapshot(finished: TrainFinished, where: string): Snapshot {
  const { unet, adapter, average, averageAdapter } = finished;
  return {
    unet: toStoredUnet(unet, adapter, where),
    ...(average && { average: toStoredUnet(average, averageAdapter, where) }),
  };
}

/** Takes what the training has left up to this step into the state; its jobs follow. */
export async function takeSnapshots(
  context: RunContext,
  trained: Model,
  upTo: number,
): Promise<void> {
  const { record, ports, dispatch } = context;
  const { runId, state } = record();
  const model = modelName(trained);
  const last = trainingSteps(state.plan, trained);
  for (const step of judgedSteps(state.plan, trained)) {
    if (step > upTo || step === last || record().state.training[model]?.snapshots?.[step]) continue;
    const key = snapshotKey(trainKey(runId, trained), step);
    const left = parse(await ports.store.getResult(key));
    if (left?.runCreatedMs !== createdMs(record())) continue;
    await dispatch({ type: 'train-snapshot', model, step, snapshot: toSnapshot(left, key) });
  }
}

function parse(json: string | null): TrainFinished | null {
  try {
    return fromJsonString(TrainFinishedSchema, json ?? '', { ignoreUnknownFields: true });
  } catch {
    return null;
  }
}

/**
 * Which of it the model is, `last` being what the training ended in: with `keep: best` that is
 * known once every step is judged.
 */
export async function chooseSnapshot(
  context: RunContext,
  trained: Model,
  last: Snapshot,
  signal: AbortSignal,
): Promise<Snapshot & { kept?: number }> {
  const { record, ports, dispatch, until } = context;
  const model = modelName(trained);
  const { plan } = record().state;
  const judging = judgingOf(plan, trained);
  if (!judging) return last;
  const lastStep = trainingSteps(plan, trained);
  await takeSnapshots(context, trained, lastStep);
  await dispatch({ type: 'train-snapshot', model, step: lastStep, snapshot: last });
  if (judging.keep === 'last') return { ...last, kept: lastStep };
  const { done } = stageOf(record().state, stageName({ kind: 'judge-score', model: trained }));
  const open = judgedSteps(plan, trained).length - done.length;
  if (open > 0) {
    const run = record().runId;
    ports.logger.info({ run, model, judgements: open }, 'training waits for its judges');
  }
  await until((state) => isJudged(state, trained), signal);
  const { judged = {}, snapshots = {} } = record().state.training[model] ?? {};
  const kept = bestStep(judged) ?? lastStep;
  return { ...(snapshots[kept] ?? last), kept };
}

/** Removes weights that are needed no more, but for those that another model shares. */
export async function dropSnapshots(
  { record, ports, isNamed }: RunContext,
  model: Model,
  steps: readonly number[],
): Promise<void> {
  const { snapshots = {} } = record().state.training[modelName(model)] ?? {};
  for (const step of steps) {
    const { unet, average } = snapshots[step] ?? {};
    for (const blob of [unet, average].flatMap((one) => (one ? blobsOf(one) : [])))
      if (!isNamed(blob.digest)) await ports.store.deleteBlob(toRef(blob));
  }
}
