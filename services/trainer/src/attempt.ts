/**
 * One attempt at a training. It goes through four phases, each of them once and in this order. A
 * phase leads to the next one or ends the attempt with an outcome. An error that a phase does not
 * expect makes the outcome `failed`.
 *
 * ## resume
 * Entered once all ranks follow. Opens models, data and a session on every rank, loads the newest
 * checkpoint that verifies, and broadcasts its state. A damaged checkpoint is set aside and the
 * next older one loaded. Left for `steps` with an OpenTraining. Ends the attempt as `rankLost` when
 * a rank is gone. Cannot resume from a checkpoint of other settings: that is `failed`.
 *
 * ## steps
 * Entered with `started` reported. Takes the steps that are left, and checkpoints on the way
 * (steps.ts). Left for `export` when all are done. Ends the attempt as
 * - `rolledBack` or `failed` when training goes wrong;
 * - `rankLost` when a rank is gone, with the complete steps checkpointed;
 * - `stopped` when the signal aborts, with the complete steps checkpointed.
 * A step that was cut short left the weights alone, and is taken again after the next resume. A
 * step whose loss or norm is not finite cannot change the weights either. Nothing can be
 * checkpointed by a process that lost the lease.
 *
 * ## export
 * Entered with all steps taken. Writes weights, average and adapters to the store. The signal does
 * not cut it short, and other ranks have no part in it. Left for `commit`. Ends the attempt as
 * `stopped` where another process has taken the training over meanwhile.
 *
 * ## commit
 * Entered with the artifacts in the store, by the owner of the training alone. Commits the result,
 * reports `finished`, and then removes the checkpoints, never before. Ends as `finished`.
 *
 * Whichever way it ends, session and data are closed and the other ranks released. When the caller
 * goes away, the attempt ends at the `yield` where it is, without an outcome.
 */
import { ensureError } from '@spindle/kit';
import type { TrainFinished, TrainStep } from '@spindle/proto';
import type { Response, TrainCall } from './call.js';
import type { Outcome } from './domain/recovery.js';
import { wirePrecision } from './precision.js';
import { RankLost } from './ranks/ranks.js';
import { commit, exportResult } from './result.js';
import { resume, type OpenTraining } from './resume.js';
import { Steps, stoppedAfter } from './steps.js';

export class Attempt {
  constructor(readonly call: TrainCall) {}

  /** Reports what it does; returns how it ended. */
  async *run(): AsyncGenerator<Response, Outcome> {
    const { ranks } = this.call.deps;
    try {
      await ranks.complete(this.call.signal);
      try {
        return yield* this.#phases();
      } finally {
        ranks.release();
      }
    } catch (thrown) {
      // Here a rank was lost before the steps: during them, it is Steps that says so.
      if (thrown instanceof RankLost) return { kind: 'rankLost', reached: -1, error: thrown };
      return { kind: 'failed', error: ensureError(thrown) };
    }
  }

  async *#phases(): AsyncGenerator<Response, Outcome> {
    const { signal, mayFinish, settings } = this.call;
    const training = await resume(this.call);
    try {
      yield this.#started(training);
      const steps = new Steps(this.call, training);
      const interruption = yield* steps.run();
      if (interruption !== null) return interruption;
      const finished = await this.#export(training, steps.recent);
      if (!(await mayFinish()))
        return { kind: 'stopped', error: stoppedAfter(settings.steps, signal) };
      return yield* this.#commit(finished);
    } finally {
      await training.own.close();
    }
  }

  #started({ startStep, facts, recent }: OpenTraining): Response {
    return {
      event: {
        case: 'started',
        value: {
          resumedStep: startStep,
          recent,
          steps: this.call.settings.steps,
          precision: wirePrecision(facts.precision),
          precisionReason: facts.precisionReason,
        },
      },
    };
  }

  async #export({ init, own }: OpenTraining, recent: readonly TrainStep[]): Promise<TrainFinished> {
    const { request, settings, deps, began } = this.call;
    const seconds = (performance.now() - began) / 1000;
    const { session } = own;
    const finished = await exportResult(
      { store: deps.store, session, settings, request, init },
      settings.steps,
      seconds,
    );
    return { ...finished, recent: [...recent] };
  }

  async *#commit(finished: TrainFinished): AsyncGenerator<Response, Outcome> {
    const { request, deps, checkpoints } = this.call;
    const value = await commit(request.key, finished, deps.store);
    yield { event: { case: 'finished', value } };
    await checkpoints.remove();
    return { kind: 'finished' };
  }
}
