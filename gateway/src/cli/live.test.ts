import { create } from '@bufbuild/protobuf';
import { JudgedTrainingSchema, RunSchema, RunStatus, type Run } from '@spindle/proto';
import { expect, it, vi } from 'vitest';
import { createView, type Losses } from './live.js';
import { verdictOfRun } from './verdict.js';

function screen(rows: number, isTTY = true) {
  const written: string[] = [];
  const out = { isTTY, rows, columns: 80, write: (text: string) => written.push(text) > 0 };
  return { written, view: createView(out as unknown as NodeJS.WriteStream) };
}

function runWith(ended: number): Run {
  const stages = Array.from({ length: ended }, (_, i) => ({
    stage: `stage-${i}`,
    state: 'done',
    done: 1,
    total: 1,
  }));
  const running = { stage: 'train-spin1', state: 'running', done: 1, total: 9, etaSeconds: -1 };
  return create(RunSchema, {
    runId: 'r1',
    status: RunStatus.RUNNING,
    stages: [...stages, running],
  });
}

const losses = (model: string): Losses => ({
  model,
  step: 3,
  steps: 9,
  loss: 0.5,
  implicitAccuracy: 0.75,
});

it('never draws more lines than the screen has, and counts the stages it leaves out', () => {
  const { written, view } = screen(10);
  view.update(runWith(20), losses('spin1'));
  const lines = written.join('').trimEnd().split('\n');
  expect(lines.length).toBeLessThan(10);
  expect(lines.join('\n')).toMatch(
    /15 stages have ended before\n.*stage-15.*\n(.*\n)+.*train-spin1 1\/9/,
  );
});

it('lists every stage where there is room', () => {
  const { written, view } = screen(40);
  view.update(runWith(20), null);
  expect(written.join('')).toContain('stage-0 ');
  expect(written.join('')).not.toContain('ended before');
});

it('speaks of implicit accuracy only where there is an opponent', () => {
  for (const isTTY of [true, false]) {
    for (const [model, expected] of [
      ['spin1', true],
      ['sft', false],
    ] as const) {
      const { written, view } = screen(40, isTTY);
      view.update(runWith(1), losses(model));
      expect(written.join('')).toContain(`${model} step 3/9: loss 0.5000`);
      expect(written.join('').includes('implicit accuracy 0.750')).toBe(expected);
    }
  }
});

it('prints a loss once, however long nothing is trained after it', () => {
  vi.useFakeTimers();
  try {
    const { written, view } = screen(40, false);
    for (let i = 0; i < 3; i += 1) {
      view.update(runWith(1), losses('spin1'));
      vi.advanceTimersByTime(60_000);
    }
    expect(written.filter((line) => line.includes('loss 0.5000'))).toHaveLength(1);
  } finally {
    vi.useRealTimers();
  }
});

it('shows what a terminal would obey as its number', () => {
  for (const isTTY of [true, false]) {
    const { written, view } = screen(40, isTTY);
    view.update({ ...runWith(1), warnings: ['left out: \u001b]0;pwned\u0007.png'] }, null);
    expect(written.join('')).toContain('left out: \\x1b]0;pwned\\x07.png');
    expect(written.join('')).not.toContain('\u0007');
  }
});

it('says once that the connection is lost, and that it is back', () => {
  for (const isTTY of [true, false]) {
    const { written, view } = screen(40, isTTY);
    view.update(runWith(1), null);
    for (let i = 0; i < 3; i += 1) view.lost('connection lost; trying again');
    view.update(runWith(2), null);
    expect(written.join('').split('connection lost')).toHaveLength(2);
    if (!isTTY) expect(written.join('')).toContain('connected again');
  }
});

it('ends with what the run comes to in words', () => {
  const metric = (mean: number, low: number, high: number) => ({
    ...{ metric: 'pickscore', mean, differenceLow: low, differenceHigh: high, n: 8 },
  });
  const ended = (bestModel: string, best = metric(13, 1, 2)): Run =>
    create(RunSchema, {
      ...{ runId: 'r1', status: RunStatus.SUCCEEDED, bestModel },
      results: [
        { model: 'base', metrics: [metric(11.5, 0, 0)] },
        { model: 'spin1', metrics: [best] },
      ],
    });
  expect(verdictOfRun(ended('spin1'))).toBe(
    'spin1 is better than the base by pickscore: +1.50 (95 % interval +1.00 to +2.00).',
  );
  expect(verdictOfRun(ended('spin1', metric(11.6, -0.25, 0.5)))).toBe(
    'spin1 cannot be told from the base by pickscore: +0.100 (95 % interval -0.250 to +0.500).',
  );
  expect(verdictOfRun(ended('base'))).toContain('No iteration beats the base by pickscore');
  expect(verdictOfRun({ ...ended('spin1'), results: [] })).toContain('Nobody judged the images');
  expect(verdictOfRun({ ...ended('spin1'), status: RunStatus.FAILED })).toBe('');
});

it('prints a line for each judged step, once, and the one that was kept', () => {
  const { written, view } = screen(40, false);
  const steps = [
    { step: 50, mean: 2.25, standardError: 0.125, n: 16 },
    { step: 100, mean: 2, standardError: 0.25, n: 16 },
  ];
  const judged = (count: number, keptStep: number): Run =>
    Object.assign(runWith(1), {
      judgedTrainings: [
        create(JudgedTrainingSchema, {
          ...{ model: 'spin1', metric: 'pick', keptStep, keepsBest: true },
          steps: steps.slice(0, count),
        }),
      ],
    });
  for (const run of [judged(1, 0), judged(1, 0), judged(2, 0), judged(2, 50)])
    view.update(run, null);
  expect(written.filter((line) => line.startsWith('spin1 '))).toEqual([
    'spin1 step 50: pick 2.250 ± 0.125 (16 images)\n',
    'spin1 step 100: pick 2.000 ± 0.250 (16 images)\n',
    'spin1 is what step 50 left, with the best mean by pick (2.250 ± 0.125) of 2 judged steps.\n',
  ]);
});
