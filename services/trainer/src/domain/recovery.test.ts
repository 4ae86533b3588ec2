import { OnDivergence } from '@spindle/proto';
import { describe, expect, it } from 'vitest';
import {
  afterAttempt,
  divergence,
  noHistory,
  remedy,
  type History,
  type Next,
  type Outcome,
  type Trouble,
} from './recovery.js';

const error = new Error('the cause');
const alarm: Trouble = { step: 13, reason: 'the loss is exactly 0', badSince: 12, cause: null };
const broken: Trouble = { step: 13, reason: 'loss is NaN', badSince: 12, cause: error };
const none = { count: 0, learningRateScale: 1 };
const lost = (reached: number): Outcome => ({ kind: 'rankLost', reached, error });
const owner = { isOwner: true, aborted: false };

describe('after an attempt', () => {
  it.each<[string, Outcome, Partial<typeof owner>, Next]>([
    ['the result is committed', { kind: 'finished' }, {}, { kind: 'end' }],
    ['it failed', { kind: 'failed', error }, {}, { kind: 'fail', error }],
    ['it was stopped', { kind: 'stopped', error }, { aborted: true }, { kind: 'fail', error }],
    [
      'it goes back',
      { kind: 'rolledBack', trouble: alarm, rollbacks: none },
      {},
      {
        kind: 'goBack',
        badSince: 12,
        reason: 'step 13: the loss is exactly 0',
        rollbacks: { count: 1, learningRateScale: 0.5 },
      },
    ],
    [
      'it goes back once more',
      { kind: 'rolledBack', trouble: broken, rollbacks: { count: 2, learningRateScale: 0.25 } },
      {},
      {
        kind: 'goBack',
        badSince: 12,
        reason: 'step 13: loss is NaN',
        rollbacks: { count: 3, learningRateScale: 0.125 },
      },
    ],
    [
      'it would go back, but the lease is lost: nothing may be written',
      { kind: 'rolledBack', trouble: broken, rollbacks: none },
      { isOwner: false, aborted: true },
      { kind: 'fail', error: new Error('step 13: loss is NaN') },
    ],
    [
      'a rank is lost',
      lost(4),
      {},
      { kind: 'resume', history: { losses: 1, best: 4 }, reached: 4, cause: error },
    ],
    [
      'a rank is lost before training has resumed',
      lost(-1),
      {},
      { kind: 'resume', history: { losses: 1, best: -1 }, reached: -1, cause: error },
    ],
    ['a rank is lost, and the caller is gone', lost(4), { aborted: true }, { kind: 'fail', error }],
  ])('%s', (_name, outcome, change, expected) => {
    expect(afterAttempt(outcome, noHistory, { ...owner, ...change })).toEqual(expected);
  });
});

describe('losses of ranks', () => {
  /** What follows each loss, until it is not to resume. */
  function follow(reached: readonly number[]): Next[] {
    let history: History = noHistory;
    return reached.map((step) => {
      const next = afterAttempt(lost(step), history, owner);
      if (next.kind === 'resume') history = next.history;
      return next;
    });
  }

  it.each<[number[], Next['kind'][]]>([
    // Progress between them: as many as there are.
    [
      [0, 1, 2, 3, 4],
      ['resume', 'resume', 'resume', 'resume', 'resume'],
    ],
    [
      [4, 4, 4],
      ['resume', 'resume', 'giveUp'],
    ],
    [
      [2, 2, 3, 3, 3],
      ['resume', 'resume', 'resume', 'resume', 'giveUp'],
    ],
    // Getting less far than before is no progress.
    [
      [4, 2, 3],
      ['resume', 'resume', 'giveUp'],
    ],
    // Ranks that never come do not even let training begin: the first of them counts as well.
    [
      [-1, -1, -1],
      ['resume', 'resume', 'giveUp'],
    ],
    [
      [-1, 0, -1, -1],
      ['resume', 'resume', 'resume', 'giveUp'],
    ],
  ])('at the steps %j', (reached, expected) => {
    expect(follow(reached).map(({ kind }) => kind)).toEqual(expected);
  });

  it('end in words that name the furthest step and the last cause', () => {
    expect(follow([4, 2, 3]).at(-1)).toEqual({
      kind: 'giveUp',
      message:
        'training stopped after step 4: ranks were lost 3 times without progress, ' +
        'the last time because the cause',
      cause: error,
    });
    expect(follow([-1, -1, -1]).at(-1)).toMatchObject({
      message: expect.stringContaining('stopped after step 0:') as string,
    });
  });
});

describe('a step that goes wrong', () => {
  const rollBack = { onDivergence: OnDivergence.ROLLBACK, maxRollbacks: 2 };
  const stop = { onDivergence: OnDivergence.STOP, maxRollbacks: 2 };
  const warn = { onDivergence: OnDivergence.WARN, maxRollbacks: 2 };
  it.each([
    ['rolls back an alarm', alarm, rollBack, 0, 13, { kind: 'rollBack' }],
    ['rolls back a step that broke off', broken, rollBack, 1, 12, { kind: 'rollBack' }],
    [
      'gives up when it may not roll back again',
      alarm,
      rollBack,
      2,
      13,
      { kind: 'giveUp', dropFrom: 12 },
    ],
    [
      'gives up at the first step, which nothing lies before',
      broken,
      rollBack,
      0,
      0,
      { kind: 'giveUp', dropFrom: null },
    ],
    ['forgets what an alarm blames', alarm, stop, 0, 13, { kind: 'giveUp', dropFrom: 12 }],
    [
      'keeps all checkpoints when the step was not taken',
      broken,
      stop,
      0,
      12,
      { kind: 'giveUp', dropFrom: null },
    ],
    [
      'has no number to go on with, whatever was asked for',
      broken,
      warn,
      0,
      12,
      { kind: 'giveUp', dropFrom: null },
    ],
  ])('%s', (_name, trouble, settings, count, done, expected) => {
    expect(remedy(trouble, settings, { count, learningRateScale: 1 }, done)).toEqual(expected);
  });

  it.each([
    [10, 0, 'training diverged at step 13: loss is NaN; the checkpoint of step 10 is kept'],
    [
      0,
      2,
      'training diverged at step 13, after 2 rollbacks: loss is NaN; there is no checkpoint yet',
    ],
  ])('is told with what is left: checkpoint %i, %i rollbacks', (kept, rollbacks, message) => {
    expect(divergence(broken, kept, rollbacks)).toBe(message);
  });
});
