/**
 * A training, from its newest usable checkpoint to its committed result, in as many attempts as it
 * takes. An attempt (attempt.ts) ends with an outcome, and domain/recovery.ts says which of these
 * modes follows.
 *
 * ## attempt
 * Entered at the call, after a rollback, and after a rank was lost. Reports what it does, and ends
 * with an outcome. No attempt begins before the one before has let go of its session, its data and
 * the other ranks.
 *
 * ## going back
 * Entered when training goes wrong, a rollback is asked for, and one is left. The lower learning
 * rate is noted, then the checkpoints with the trouble in them are removed. Left for the next
 * attempt, which resumes from the newest one of the others, or from the start. Cannot be entered by
 * a process that lost the lease, since that must not write.
 *
 * ## taking up again
 * Entered when a rank was lost. The attempt has checkpointed the complete steps. Left for the next
 * attempt, which begins by waiting for all ranks, or for the end at the third loss without a
 * complete step between them. Cannot be entered once the signal has aborted.
 *
 * ## end
 * Entered with the result committed, or with an error. A caller who asks again for a key whose
 * result is committed does not come here (server.ts).
 */
import { SpindleError } from '@spindle/kit';
import type { Lease } from '@spindle/mesh';
import type { TrainRequest } from '@spindle/proto';
import { Attempt } from './attempt.js';
import type { Response, TrainCall, TrainingDeps } from './call.js';
import { CheckpointCopies } from './checkpoint-copies.js';
import { Checkpoints } from './checkpoints.js';
import { afterAttempt, noHistory, type Next } from './domain/recovery.js';
import type { TrainingSettings } from './domain/settings.js';
import { readSettings } from './request.js';

/** The lease of a training, as the trainer that holds it asks about it. */
export type Ownership = Pick<Lease, 'lost' | 'takenByAnother'>;

export async function* train(
  request: TrainRequest,
  deps: TrainingDeps,
  signal: AbortSignal,
  lease: Ownership,
): AsyncGenerator<Response> {
  const isOwner = (): boolean => !lease.lost.aborted;
  const settings = readSettings(request);
  const { worldSize } = deps.ranks;
  if (worldSize > settings.batchSize) {
    throw new SpindleError(
      'INVALID_ARGUMENT',
      'settings.batch_size: expected at least one element for each of ' +
        `${worldSize} ranks, got ${settings.batchSize}`,
    );
  }
  const checkpoints = await openCheckpoints(request.key, settings, deps);
  const mayFinish = async (): Promise<boolean> => {
    if (isOwner()) return true;
    // Without the server nobody is granted the lease. The folder tells of who was before.
    const taken = await lease.takenByAnother();
    return taken === null ? checkpoints.isUntouched() : !taken;
  };
  checkpoints.mayWrite = mayFinish;
  const began = performance.now();
  const call: TrainCall = {
    ...{ request, settings, checkpoints, deps, signal },
    ...{ isOwner, mayFinish, began },
  };
  let history = noHistory;
  for (;;) {
    const outcome = yield* new Attempt(call).run();
    const next = afterAttempt(outcome, history, { isOwner: isOwner(), aborted: signal.aborted });
    switch (next.kind) {
      case 'end':
        return;
      case 'fail':
        throw next.error;
      case 'giveUp':
        throw new SpindleError('FAILED_PRECONDITION', next.message, { cause: next.cause });
      case 'goBack':
        yield await goBack(next, call);
        break;
      case 'resume':
        history = next.history;
        deps.logger.warn(
          { err: next.cause, key: request.key, step: next.reached },
          'a rank was lost; training resumes from its checkpoint',
        );
    }
  }
}

/** Notes the cut of the learning rate first: a crash before the rest must not forget it. */
async function goBack(
  { badSince, reason, rollbacks }: Next & { kind: 'goBack' },
  { request, settings, checkpoints, deps }: TrainCall,
): Promise<Response> {
  await checkpoints.noteRollbacks(rollbacks);
  await checkpoints.dropFrom(badSince);
  const step = (await checkpoints.newest()) || settings.firstStep;
  deps.logger.warn(
    { key: request.key, step, ...rollbacks, reason },
    'training goes back to a good checkpoint',
  );
  const { learningRateScale } = rollbacks;
  return { event: { case: 'rolledBack', value: { step, reason, learningRateScale } } };
}

async function openCheckpoints(
  key: string,
  settings: TrainingSettings,
  { store, logger }: TrainingDeps,
): Promise<Checkpoints> {
  const directory = await store.checkpointDir(key);
  const mirror = store.checkpointMirror(key);
  const copies = mirror === null ? null : new CheckpointCopies(mirror, directory, logger);
  return new Checkpoints(directory, settings.keepCheckpoints, logger, copies);
}
