/**
 * What follows when an attempt at a training has ended: outcome + history -> next. No I/O.
 *
 * finished -> end.  stopped, failed -> fail with their error.
 * rolledBack -> goBack: forget the checkpoints with the trouble in them, lower the learning rate,
 *   try again; fail where another process has taken the training over.
 * rankLost -> resume from the newest checkpoint; giveUp after so many losses in a row without a
 *   complete step between them; fail where the call was stopped meanwhile.
 *
 * Within an attempt, a step that goes wrong is judged first (`remedy`): it makes the attempt's
 * outcome a rollback, or a failure for good.
 */
import { OnDivergence, type TrainSettings } from '@spindle/proto';

/** How often training has gone back, and what its learning rates are multiplied by since. */
export interface Rollbacks {
  count: number;
  learningRateScale: number;
}

/** A step whose numbers say that training goes wrong. */
export interface Trouble {
  /** 1 for the first optimiser step. */
  step: number;
  reason: string;
  /** Checkpoints of this step and later ones have what is wrong in them. */
  badSince: number;
  /** The error that kept the step from being taken; null for an alarm about one that was taken. */
  cause: Error | null;
}

/** How an attempt ended. */
export type Outcome =
  | { kind: 'finished' }
  | { kind: 'rolledBack'; trouble: Trouble; rollbacks: Rollbacks }
  /** `reached` is the last complete step; -1 where the attempt did not get as far as resuming. */
  | { kind: 'rankLost'; reached: number; error: Error }
  /** The caller or the process ended it, or the lease was lost. */
  | { kind: 'stopped'; error: Error }
  | { kind: 'failed'; error: Error };

/** What there is to know of the attempts before. */
export interface History {
  /** Losses of ranks in a row without a complete step between them. */
  losses: number;
  /** The furthest complete step of an attempt that lost a rank; -1 before there is one. */
  best: number;
}

export const noHistory: History = { losses: 0, best: -1 };

export type Next =
  | { kind: 'end' }
  | { kind: 'fail'; error: Error }
  | { kind: 'giveUp'; message: string; cause: Error }
  | { kind: 'goBack'; badSince: number; reason: string; rollbacks: Rollbacks }
  | { kind: 'resume'; history: History; reached: number; cause: Error };

export type Remedy =
  | { kind: 'rollBack' }
  /** `dropFrom`: checkpoints of this step and later ones go; null: none of them is bad. */
  | { kind: 'giveUp'; dropFrom: number | null };

const maxRankLosses = 3;
const learningRateCut = 0.5;

/** What is done about a step that goes wrong. `done` steps are complete. */
export function remedy(
  trouble: Trouble,
  settings: Pick<TrainSettings, 'onDivergence' | 'maxRollbacks'>,
  rollbacks: Rollbacks,
  done: number,
): Remedy {
  const again =
    settings.onDivergence === OnDivergence.ROLLBACK &&
    rollbacks.count < settings.maxRollbacks &&
    done > 0;
  if (again) return { kind: 'rollBack' };
  // A step that was not taken left the weights, and so the checkpoints, alone.
  return { kind: 'giveUp', dropFrom: trouble.cause === null ? trouble.badSince : null };
}

/** What follows. `isOwner` and `aborted` are those of the call at the end of the attempt. */
export function afterAttempt(
  outcome: Outcome,
  history: History,
  { isOwner, aborted }: { isOwner: boolean; aborted: boolean },
): Next {
  switch (outcome.kind) {
    case 'finished':
      return { kind: 'end' };
    case 'stopped':
    case 'failed':
      return { kind: 'fail', error: outcome.error };
    case 'rolledBack': {
      const { trouble, rollbacks } = outcome;
      const reason = `step ${trouble.step}: ${trouble.reason}`;
      if (!isOwner) return { kind: 'fail', error: new Error(reason) };
      return {
        kind: 'goBack',
        badSince: trouble.badSince,
        reason,
        rollbacks: {
          count: rollbacks.count + 1,
          learningRateScale: rollbacks.learningRateScale * learningRateCut,
        },
      };
    }
    case 'rankLost':
      return aborted ? { kind: 'fail', error: outcome.error } : afterLoss(outcome, history);
  }
}

function afterLoss(
  { reached, error }: Outcome & { kind: 'rankLost' },
  { losses: before, best: furthest }: History,
): Next {
  const losses = reached > furthest ? 1 : before + 1;
  const best = Math.max(furthest, reached);
  if (losses < maxRankLosses) {
    return { kind: 'resume', history: { losses, best }, reached, cause: error };
  }
  const message =
    `training stopped after step ${Math.max(0, best)}: ` +
    `ranks were lost ${losses} times without progress, the last time because ${error.message}`;
  return { kind: 'giveUp', message, cause: error };
}

/** Why training ends, in words. `kept` is the step of its newest checkpoint, 0 without any. */
export function divergence({ step, reason }: Trouble, kept: number, rollbacks: number): string {
  const where = kept > 0 ? `the checkpoint of step ${kept} is kept` : 'there is no checkpoint yet';
  const after = rollbacks > 0 ? `, after ${rollbacks} rollbacks` : '';
  return `training diverged at step ${step}${after}: ${reason}; ${where}`;
}
