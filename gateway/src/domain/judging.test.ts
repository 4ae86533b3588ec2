import { describe, expect, it } from 'vitest';
import { bestStep, judgingOf, stepsJudged, type Judgement } from './judging.js';
import { transition, type RunEvent } from './machine.js';
import { spin } from './model.js';
import { judgedSteps, stagesOf, type RunPlan } from './plan.js';
import { progressOf } from './progress.js';
import { shardItems } from './shards.js';
import { namedBlobs, neededNoMore } from './snapshots.js';
import { initialState, stageOf, type RunState, type Snapshot } from './state.js';
import { commandsBetween, workOf } from './work.js';

const plan: RunPlan = {
  ...{ runId: 'r', seed: 0, iterations: 2, sft: true, rows: 2, imagesPerPrompt: 1 },
  ...{ evaluationPrompts: 10, evaluationSeed: 3, metrics: ['pick'], stop: null },
  ...{ encodeShardSize: 2, sampleShardSize: 2, trainSteps: [5, 4], sftSteps: 3, maxMissing: 0.5 },
  sharedDevice: false,
  select: { prompts: 4, metric: 'pick' },
  judging: { spin: { every: [2, 3], prompts: 3, keep: 'best' } },
};

const judged = (mean: number): Judgement => ({ mean, standardError: 0.5, n: 3 });

function left(step: number): Snapshot {
  const blob = (name: string) => ({ digest: `sha256:${name}`, bytes: 1, mediaType: '' });
  return { unet: { config: blob('config'), weights: blob(`step-${step}`) } };
}

type Told = RunEvent extends infer E ? (E extends RunEvent ? Omit<E, 'at'> : never) : never;

function after(state: RunState, ...events: Told[]): RunState {
  return events.reduce((now, event) => transition(now, { ...event, at: 1 }), state);
}

const done = (stage: string, ...shards: number[]): Told => ({
  type: 'jobs-done',
  stage,
  jobs: shards.map((shard) => ({ shard, rejected: [], truncated: 0 })),
});
const snapshot = (step: number): Told => ({
  type: 'train-snapshot',
  model: 'spin1',
  step,
  snapshot: left(step),
});
const scored = (shard: number, mean: number): Told => ({
  type: 'jobs-done',
  stage: 'judge-score-spin1',
  jobs: [{ shard, rejected: [], truncated: 0, judgement: judged(mean) }],
});

/** spin1 is in training. */
function training(own: RunPlan = plan): RunState {
  return after(
    initialState({ ...own, sft: false }, 0),
    { type: 'start' },
    done('encode', 0),
    done('sample-base', 0),
  );
}

const droppedBy = (before: RunState, now: RunState): number[] =>
  commandsBetween(before, now).flatMap((one) => (one.type === 'drop-snapshots' ? one.steps : []));

describe('judging', () => {
  it('comes after every n-th step and after the last one', () => {
    expect(stepsJudged(2, 5)).toEqual([2, 4, 5]);
    expect(stepsJudged(2, 4)).toEqual([2, 4]);
    expect(stepsJudged(9, 4)).toEqual([4]);
    expect([1, 2].map((k) => judgedSteps(plan, spin(k)))).toEqual([
      [2, 4, 5],
      [3, 4],
    ]);
    expect(judgingOf(plan, { kind: 'sft' })).toBeUndefined();
    expect(stagesOf(plan).filter(({ name }) => name.startsWith('judge'))).toMatchObject([
      { name: 'judge-sample-spin1', shards: 3, items: 9, iteration: 1 },
      { name: 'judge-score-spin1', shards: 3, items: 9, iteration: 1 },
      { name: 'judge-sample-spin2', shards: 2, items: 6, iteration: 2 },
      { name: 'judge-score-spin2', shards: 2, items: 6, iteration: 2 },
    ]);
  });

  it('draws the prompts that models are chosen by, with the noise of the evaluation', () => {
    const [judging, evaluation] = ['judge-sample-spin1', 'eval-sample-spin1'].map((name) =>
      stagesOf(plan).find((stage) => stage.name === name),
    );
    const items = [0, 2].map((shard) => shardItems(plan, judging!, shard, new Set()));
    expect(items[0]!.map(({ index }) => index)).toEqual([6, 7, 8]);
    expect(items[1]).toEqual(items[0]);
    expect(shardItems(plan, evaluation!, 3, new Set())).toEqual(items[0]!.slice(0, 2));
  });

  it.each([
    [{ 2: 1, 4: 3, 5: 2 }, 4],
    [{ 5: 3, 4: 3, 10: 3 }, 4],
    [{ 2: Number.NaN, 4: -1 }, 4],
    [{ 2: Number.NaN }, undefined],
    [{}, undefined],
  ])('chooses of %j the best, of equal ones the earliest', (means, best) => {
    const all = Object.entries(means).map(([step, mean]) => [step, judged(mean)]);
    expect(bestStep(Object.fromEntries(all) as Record<number, Judgement>)).toBe(best);
  });

  it('has a job for each step that has left its weights, after what training draws for itself', () => {
    let state = training();
    expect([...workOf(state).jobs.keys()]).not.toContain('judge-sample-spin1');
    const before = state;
    state = after(state, snapshot(4));
    expect(commandsBetween(before, state)).toContainEqual({
      ...{ type: 'publish', stage: 'judge-sample-spin1', shards: [1] },
    });
    // Told again, as after a restart, it changes nothing.
    expect(after(state, snapshot(4))).toBe(state);
    const again = commandsBetween(null, state).filter(({ type }) => type === 'publish');
    expect(again.at(-1)).toMatchObject({ stage: 'eval-sample-base' });
    expect(again.map((one) => ('stage' in one ? one.stage : ''))).toContain('judge-sample-spin1');
    state = after(state, done('judge-sample-spin1', 1));
    expect(workOf(state).jobs.get('judge-score-spin1')).toEqual([1]);
    state = after(state, scored(1, 2));
    expect(workOf(state).jobs.has('judge-score-spin1')).toBe(false);
    expect(state.training['spin1']?.judged).toEqual({ 4: judged(2) });
  });

  it('keeps the weights of the best step so far, and of those that are still to be judged', () => {
    let state = after(training(), snapshot(2), snapshot(4), done('judge-sample-spin1', 0, 1));
    const steps: number[][] = [];
    for (const event of [
      scored(0, 1),
      scored(1, 2),
      snapshot(5),
      done('judge-sample-spin1', 2),
      scored(2, 1.5),
    ]) {
      const before = state;
      state = after(state, event);
      steps.push(droppedBy(before, state));
    }
    // The trainer is asked for the last one's until the run has taken it.
    expect(steps).toEqual([[], [2], [], [], []]);
    expect([...namedBlobs(state)].sort()).toEqual(['sha256:step-4', 'sha256:step-5']);
    const before = state;
    state = after(state, { type: 'train-finished', model: 'spin1', kept: 4, ...left(4) });
    // All of them once more: a trainer that resumed has left some twice.
    expect(droppedBy(before, state)).toEqual([2, 5]);
    expect([...namedBlobs(state)]).toEqual(['sha256:step-4']);
    expect(stageOf(state, 'train-spin1').status).toBe('done');
    expect(stageOf(state, 'judge-score-spin1').status).toBe('done');
  });

  it('does not hold up what follows where the last step is kept', () => {
    const own: RunPlan = { ...plan, judging: { spin: { every: 2, prompts: 3, keep: 'last' } } };
    let state = after(training(own), snapshot(2), snapshot(4), snapshot(5));
    state = after(state, { type: 'train-finished', model: 'spin1', kept: 5, ...left(5) });
    expect(stageOf(state, 'sample-spin1').status).toBe('running');
    expect(neededNoMore(state, spin(1))).toEqual([]);
    state = after(state, done('judge-sample-spin1', 0, 1, 2), scored(0, 3));
    expect(neededNoMore(state, spin(1))).toEqual([2]);
    expect(stageOf(state, 'report').status).toBe('waiting');
  });

  it('ends with its training: what is drawn beside it makes no run look longer', () => {
    const numbers = { ...{ loss: 1, gradNorm: 1, learningRate: 1, beta: 1, seconds: 2 } };
    const errors = { errorReal: 1, errorGenerated: 1, implicitAccuracy: 1, loserScale: 1 };
    const metrics = { ...numbers, ...errors, opponentErrorReal: 1, opponentErrorGenerated: 1 };
    let state = after(
      training({ ...plan, iterations: 1, evaluationPrompts: 5, metrics: [] }),
      { type: 'train-step', model: 'spin1', metrics: { ...metrics, step: 2 } },
      snapshot(2),
    );
    state = after(state, done('eval-sample-base', 0, 1, 2), done('judge-sample-spin1', 0));
    const { stages } = progressOf(state, 100_000);
    const etas = new Map(stages.map(({ stage, etaSeconds }) => [stage, etaSeconds]));
    expect(etas.get('train-spin1')).toBe(6);
    expect(etas.get('judge-sample-spin1')).toBe(6);
    expect(etas.get('judge-score-spin1')).toBe(6);
  });

  it('asks for lost weights again, and for no scores', () => {
    let state = after(training(), snapshot(2), snapshot(4), snapshot(5));
    state = after(state, done('judge-sample-spin1', 0, 1, 2), scored(0, 1), scored(1, 3));
    state = after(state, scored(2, 2), {
      ...{ type: 'train-finished', model: 'spin1', kept: 4 },
      ...left(4),
    });
    state = after(state, { type: 'inputs-lost', shards: [], models: ['spin1'], texts: [] });
    expect(workOf(state).training).toEqual(spin(1));
    state = after(state, snapshot(2));
    expect(workOf(state).jobs.has('judge-sample-spin1')).toBe(false);
    expect(bestStep(state.training['spin1']?.judged ?? {})).toBe(4);
    expect(neededNoMore(state, spin(1))).toEqual([2]);
  });
});
