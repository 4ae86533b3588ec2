/**
 * What a training that is judged leaves on the way: what it would end in after every so many steps,
 * under a key of each. A checkpoint of a step comes after them, so that whoever resumes from it
 * finds those of the steps before.
 */
import { isLeftOver, snapshotKey } from '@spindle/mesh';
import type { Response, TrainCall } from './call.js';
import type { OpenTraining } from './resume.js';
import { commit, exportResult, parseFinished } from './result.js';
import { SpindleError } from '@spindle/kit';

type Call = Pick<TrainCall, 'request' | 'settings' | 'deps' | 'began' | 'mayFinish'>;

/** Whether one is left after `step`; the last step's is the result. */
function isDue({ settings }: Pick<Call, 'settings'>, step: number): boolean {
  const every = settings.judgeEvery;
  return every > 0 && step > 0 && step < settings.steps && step % every === 0;
}

/** Leaves what the training has now, after `step`, where it is time; null: it is not. */
export async function leaveSnapshot(
  call: Call,
  { own, init }: Pick<OpenTraining, 'own' | 'init'>,
  step: number,
): Promise<Response | null> {
  const { request, settings, deps, began, mayFinish } = call;
  if (!isDue(call, step)) return null;
  const { store } = deps;
  const { session } = own;
  const seconds = (performance.now() - began) / 1000;
  const left = await exportResult({ store, session, settings, request, init }, step, seconds);
  if (!(await mayFinish()))
    throw new SpindleError('ABORTED', 'another trainer has taken this training over');
  await commit(snapshotKey(request.key, step), left, store);
  return { event: { case: 'snapshot', value: { step } } };
}

/** The same after a resume: what is there already is not made again. */
export async function leaveMissingSnapshot(
  call: Call,
  training: Pick<OpenTraining, 'own' | 'init'>,
  step: number,
): Promise<Response | null> {
  return (await isThere(call, step)) ? null : leaveSnapshot(call, training, step);
}

/** Whether all steps before this one have left theirs: one cannot go on from there otherwise. */
export async function haveLeftSnapshots(call: Call, step: number): Promise<boolean> {
  for (let before = 1; before < step; before++)
    if (isDue(call, before) && !(await isThere(call, before))) return false;
  return true;
}

async function isThere({ request, deps }: Call, step: number): Promise<boolean> {
  const key = snapshotKey(request.key, step);
  const left = parseFinished(await deps.store.getResult(key));
  return left !== null && !(await isLeftOver(key, left, request, deps.store));
}
