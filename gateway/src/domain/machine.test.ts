import { describe, expect, it } from 'vitest';
import { leftOut } from './keep-if.js';
import { transition, type RunEvent } from './machine.js';
import { base, modelName, spin } from './model.js';
import { opponentOf, partOf, stagesOf, type RunPlan } from './plan.js';
import type { StepNumbers } from '@spindle/proto';
import { progressOf } from './progress.js';
import { trainedSteps } from './training.js';
import { initialState, stageOf, type ModelSummary, type RunState } from './state.js';
import { commandsBetween, workOf } from './work.js';

export function plan(overrides: Partial<RunPlan> = {}): RunPlan {
  return {
    runId: 'r1',
    seed: 7,
    iterations: 2,
    sft: false,
    rows: 4,
    imagesPerPrompt: 1,
    evaluationPrompts: 2,
    evaluationSeed: 0,
    metrics: ['pick'],
    stop: null,
    sharedDevice: false,
    encodeShardSize: 2,
    sampleShardSize: 2,
    trainSteps: 2,
    sftSteps: 2,
    maxMissing: 0.05,
    ...overrides,
  };
}

function metrics(step: number, overrides: Partial<StepNumbers> = {}): StepNumbers {
  const errors = {
    errorReal: 0.1,
    errorGenerated: 0.2,
    opponentErrorReal: 0.1,
    opponentErrorGenerated: 0.1,
  };
  return {
    step,
    loss: 0.6,
    ...errors,
    implicitAccuracy: 0.9,
    loserScale: 1,
    gradNorm: 1,
    learningRate: 1e-4,
    beta: 2000,
    seconds: 1,
    ...overrides,
  };
}

const unet = {
  config: { digest: 'sha256:c', bytes: 1, mediaType: '' },
  weights: { digest: 'sha256:w', bytes: 1, mediaType: '' },
};

function summary(model: string, mean: number): ModelSummary {
  return {
    model,
    metrics: [
      {
        metric: 'pick',
        mean,
        median: mean,
        standardError: 0,
        winRate: 0.5,
        differenceLow: 0,
        differenceHigh: 0,
        n: 2,
      },
    ],
  };
}

type Fact = RunEvent extends infer E ? (E extends RunEvent ? Omit<E, 'at'> : never) : never;

/** Everything that the outside can report next: what was asked for gets done, in any order. */
function possible(state: RunState, means: Record<string, number>): Fact[] {
  const work = workOf(state);
  const facts: Fact[] = [];
  for (const [stage, shards] of work.jobs)
    for (const shard of shards)
      facts.push({ type: 'jobs-done', stage, jobs: [{ shard, rejected: [], truncated: 0 }] });
  if (work.training) {
    const model = modelName(work.training);
    const step = state.training[model]?.last?.step ?? 0;
    const { first, last } = partOf(state.plan, work.training) ?? { first: 0, last: 0 };
    const own = stagesOf(state.plan).find((s) => s.name === `train-${model}`)?.items ?? 0;
    const total = Math.max(last, own);
    const taken = Math.max(first, step);
    facts.push(
      taken < total
        ? { type: 'train-step', model, metrics: metrics(taken + 1) }
        : { type: 'train-finished', model, unet },
    );
  }
  for (const model of work.evaluating.map(modelName))
    facts.push({ type: 'evaluated', model, results: [summary(model, means[model] ?? 0)] });
  if (work.report) facts.push({ type: 'report-written' });
  return facts;
}

/**
 * What two orders of events may differ in is when things happened and how often jobs were
 * published.
 */
function essence(state: RunState): string {
  const stages = Object.fromEntries(
    Object.entries(state.stages).map(([name, s]) => [name, { ...s, activeMs: 0, since: 0 }]),
  );
  return JSON.stringify({
    ...state,
    stages,
    createdAt: 0,
    updatedAt: 0,
    round: 0,
    results: [...state.results].sort((a, b) => (a.model < b.model ? -1 : 1)),
    warnings: [...state.warnings].sort(),
  });
}

function expectLegal(before: RunState, after: RunState): void {
  for (const stage of stagesOf(after.plan)) {
    const was = stageOf(before, stage.name);
    const now = stageOf(after, stage.name);
    const allowed: Record<string, string[]> = {
      waiting: ['waiting', 'running', 'done', 'skipped'],
      running: ['running', 'done', 'failed', 'skipped'],
      failed: ['failed', 'running', 'done'],
      done: ['done'],
      skipped: ['skipped'],
    };
    expect(allowed[was.status]).toContain(now.status);
    if (now.status === 'running' || now.status === 'done') {
      for (const name of stage.after)
        expect(['done', 'skipped', ...(name === stage.early?.stage ? ['running'] : [])]).toContain(
          stageOf(after, name).status,
        );
    }
    expect(new Set(now.done).size).toBe(now.done.length);
    expect(now.items).toBeLessThanOrEqual(stage.items);
    expect(now.done.filter((shard) => now.dead.some((dead) => dead.shard === shard))).toEqual([]);
  }
  if (after.status !== 'running') expect(workOf(after).jobs.size).toBe(0);
  const training = stagesOf(after.plan).filter(
    (s) => s.kind === 'train' && stageOf(after, s.name).status === 'running',
  );
  expect(training.length).toBeLessThanOrEqual(1);
}

/**
 * Visits every state that any order of events reaches; returns the ends. `extra` adds events that
 * may come at any time.
 */
function explore(
  start: RunState,
  means: Record<string, number>,
  extra: (state: RunState) => Fact[] = () => [],
): { ends: Map<string, RunState>; visited: number } {
  const seen = new Set<string>();
  const ends = new Map<string, RunState>();
  const open = [start];
  for (let state = open.pop(); state; state = open.pop()) {
    const key = essence(state);
    if (seen.has(key)) continue;
    seen.add(key);
    const facts = [...possible(state, means), ...extra(state)];
    if (facts.length === 0) ends.set(key, state);
    for (const fact of facts) {
      const event = { ...fact, at: state.updatedAt + 1 };
      const next = transition(state, event);
      expectLegal(state, next);
      // A fact that is told twice changes nothing more.
      if (fact.type === 'jobs-done' || fact.type === 'train-finished' || fact.type === 'train-step')
        expect(essence(transition(next, event))).toBe(essence(next));
      open.push(next);
    }
  }
  return { ends, visited: seen.size };
}

function started(overrides: Partial<RunPlan> = {}): RunState {
  return transition(initialState(plan(overrides), 0), { type: 'start', at: 1 });
}

const rising = { base: 1, spin1: 2, spin2: 3, sft: 1.5, dpo: 4 };

describe('a training that goes wrong', () => {
  it('is warned of, and takes its steps again after going back', () => {
    let state = started({ iterations: 1, trainSteps: 9 });
    const at = (fact: Fact): void =>
      void (state = transition(state, { ...fact, at: state.updatedAt + 1 }));
    at({ type: 'train-started', model: 'spin1', resumedStep: 0 });
    for (const step of [1, 2, 3, 4])
      at({ type: 'train-step', model: 'spin1', metrics: metrics(step) });
    at({ type: 'train-alarm', model: 'spin1', step: 4, message: 'the loss is exactly 0' });
    at({
      type: 'train-rolled-back',
      model: 'spin1',
      step: 2,
      reason: 'step 4: the loss is exactly 0',
      learningRateScale: 0.5,
    });
    expect(stageOf(state, 'train-spin1').items).toBe(2);
    at({ type: 'train-step', model: 'spin1', metrics: metrics(3, { loss: 0.25 }) });
    expect(state.training['spin1']?.last).toMatchObject({ step: 3, loss: 0.25 });
    expect(state.warnings).toEqual([
      'train-spin1: at step 4 the loss is exactly 0',
      'train-spin1: goes back to step 2 at 0.5 times the learning rate (step 4: the loss is exactly 0)',
    ]);
  });
});

describe('opponents', () => {
  it('are the model before, the base, or any of the models so far, by the seed', () => {
    const opponents = (overrides: Partial<RunPlan>) =>
      [1, 2, 3, 4].map((k) => modelName(opponentOf(plan(overrides), k)));
    expect(opponents({})).toEqual(['base', 'spin1', 'spin2', 'spin3']);
    expect(opponents({ opponent: 'ema' })).toEqual(['base', 'ema1', 'ema2', 'ema3']);
    expect(opponents({ opponent: 'initial' })).toEqual(['base', 'base', 'base', 'base']);
    const drawn = Array.from(
      { length: 400 },
      (_, seed) => opponents({ opponent: 'random', seed })[3] ?? '',
    );
    for (const model of ['base', 'spin1', 'spin2', 'spin3']) {
      const share = drawn.filter((name) => name === model).length / drawn.length;
      expect(Math.abs(share - 1 / 4), model).toBeLessThan(0.08);
    }
    expect(opponents({ opponent: 'random', seed: 3 })).toEqual(
      opponents({ opponent: 'random', seed: 3 }),
    );
  });

  it('draw once, however often they play', () => {
    const names = stagesOf(plan({ opponent: 'initial', iterations: 3 })).map((stage) => stage.name);
    expect(names.filter((name) => name.startsWith('sample-'))).toEqual(['sample-base']);
    const third = stagesOf(plan({ opponent: 'initial', iterations: 3 })).find(
      (stage) => stage.name === 'train-spin3',
    );
    expect(third?.after).toEqual(['sample-base', 'train-spin2']);
  });
});

describe('pairs that a judge leaves out', () => {
  const keepIf = { metric: 'pick', margin: 0.5 };

  it('are those whose generated image is better by more than the margin', () => {
    // Generated: 1, 2, 3; real: 1, 1.5, 2.25.
    expect(leftOut([1, 2, 3, 1, 1.5, 2.25], keepIf)).toEqual([2]);
    expect(leftOut([1, 2, 3, 1, 1.5, 2.25], { ...keepIf, margin: -0.25 })).toEqual([0, 1, 2]);
    expect(leftOut([1, 2], { ...keepIf, margin: -1 })).toEqual([]);
  });

  it('are counted once all are judged, and training waits for that', () => {
    const judged = (counts: readonly number[]) => {
      let state = started({ keepIf, evaluationPrompts: 0, metrics: [], maxMissing: 0.5 });
      const done = (stage: string, shard: number, without = 0): void => {
        const jobs = [{ shard, rejected: [], truncated: 0, leftOut: without }];
        const event = { type: 'jobs-done' as const, stage, jobs, at: state.updatedAt + 1 };
        state = transition(state, event);
      };
      for (const stage of ['encode', 'sample-base']) for (const n of [0, 1]) done(stage, n);
      expect(workOf(state).jobs.get('score-base')).toEqual([0, 1]);
      done('score-base', 0, counts[0]);
      expect(workOf(state).training).toBeNull();
      done('score-base', 1, counts[1]);
      return state;
    };
    const some = judged([1, 2]);
    expect(modelName(workOf(some).training ?? base)).toBe('spin1');
    expect(some.warnings).toEqual([
      'score-base: 3 of 4 pairs are left out of training: pick scores their generated image ' +
        'more than 0.5 above the real one',
    ]);
    expect(judged([0, 0]).warnings).toEqual([]);
    const none = judged([2, 2]);
    expect([none.status, none.reason]).toEqual([
      'failed',
      'objective.keep_if: expected a pair whose generated image pick scores at most 0.5 above ' +
        'the real one, got none of 4 in score-base; a larger margin keeps more',
    ]);
  });
});

/** Training reads six images in as many shards, and begins with four. */
const early = {
  ...{ iterations: 1, rows: 6, encodeShardSize: 6, sampleShardSize: 1, trainSteps: 6 },
  ...{ asRead: { batchSize: 1, views: 1 }, evaluationPrompts: 0, metrics: [] },
};

describe('training beside drawing', () => {
  const shards = (...all: number[]): Fact => ({
    type: 'jobs-done',
    stage: 'sample-base',
    jobs: all.map((shard) => ({ shard, rejected: [], truncated: 0 })),
  });
  /** Encoded; what each fact has the gateway do about training. */
  function told(facts: Fact[], overrides: Partial<RunPlan> = {}) {
    const encoded = [{ shard: 0, rejected: [], truncated: 0 }];
    let state = started({ ...early, maxMissing: 0.5, ...overrides });
    state = transition(state, { type: 'jobs-done', stage: 'encode', jobs: encoded, at: 2 });
    const done = facts.map((fact, i) => {
      const before = state;
      state = transition(state, { ...fact, at: 3 + i });
      const types = commandsBetween(before, state).map(({ type }) => type);
      return types.filter((type) => type === 'train' || type === 'stop-training').join();
    });
    return { state, done };
  }
  const dead: Fact = {
    ...{ type: 'job-dead', stage: 'sample-base', shard: 4, reason: 'it is bad', attempts: 3 },
  };
  const lost = (...all: number[]): Fact => ({
    ...{ type: 'inputs-lost', models: [], texts: [] },
    shards: all.map((shard) => ({ stage: 'sample-base', shard })),
  });

  it('begins when the shards of its first four steps are drawn, whichever else are', () => {
    expect(told([shards(0, 1, 2, 4, 5), shards(3)]).done).toEqual(['', 'train']);
  });

  it('waits for all on a shared device, and where judges say what is read', () => {
    const keepIf = { metric: 'pick', margin: 0 };
    for (const overrides of [{ sharedDevice: true }, { keepIf, metrics: ['pick'] }])
      expect(told([shards(0, 1, 2, 3, 4)], overrides).done).toEqual(['']);
  });

  it('stops when a shard is given up, and goes on when all others are drawn', () => {
    expect(told([shards(0, 1, 2, 3), dead, shards(5)]).done).toEqual([
      'train',
      'stop-training',
      'train',
    ]);
  });

  it('goes on while a shard that is lost is drawn again, but for one of the first', () => {
    const all = [shards(0, 1, 2, 3, 5), lost(5), shards(5)];
    expect(told(all).done).toEqual(['train', '', '']);
    expect(told([shards(0, 1, 2, 3, 5), lost(2), shards(2)]).done).toEqual([
      'train',
      'stop-training',
      'train',
    ]);
  });

  it('has the time of the longer one of both', () => {
    const step: Fact = { type: 'train-step', model: 'spin1', metrics: metrics(1) };
    const { state } = told([shards(0, 1, 2, 3), step]);
    const at = (seconds: number) => {
      const { stages, etaSeconds } = progressOf(state, 3 + seconds * 1000);
      const eta = (name: string) => stages.find(({ stage }) => stage === name)?.etaSeconds;
      return [eta('sample-base'), eta('train-spin1'), etaSeconds];
    };
    // Two images are left, at four in so many seconds; five steps, at a second each.
    const [draws = 0, trains, all] = at(2);
    expect(draws).toBeCloseTo(1, 1);
    expect([trains, all]).toEqual([5, 5]);
    const slow = at(40);
    expect(slow[0]).toBeCloseTo(20, 1);
    expect([slow[1], slow[2]]).toEqual([slow[0], slow[0]]);
  });
});

describe('the order of events', () => {
  it.each([
    ['two iterations', {}],
    ['a baseline', { sft: true, iterations: 1 }],
    ['two baselines', { sft: true, dpo: true, dpoSteps: 1, iterations: 1 }],
    ['a shared device', { sharedDevice: true, sft: true }],
    ['the average as opponent', { opponent: 'ema' as const }],
    ['the base as opponent throughout', { opponent: 'initial' as const }],
    [
      'an earlier opponent on a shared device',
      { opponent: 'random' as const, sharedDevice: true, dpo: true, dpoSteps: 1 },
    ],
    ['training beside drawing', early],
    ['judged pairs', { keepIf: { metric: 'pick', margin: 0 }, sharedDevice: true }],
    ['no judges', { metrics: [] }],
    ['no evaluation', { evaluationPrompts: 0, metrics: [] }],
    ['stopping allowed', { stop: { metric: 'pick', patience: 1 } }],
  ])('never changes the outcome: %s', (_name, overrides) => {
    const { ends } = explore(started(overrides), rising);
    expect(ends.size).toBe(1);
    const [end] = ends.values();
    expect(end?.status).toBe('succeeded');
    expect(Object.values(end?.stages ?? {}).every((stage) => stage.status === 'done')).toBe(true);
  });

  it('never changes the outcome when the run is paused and resumed anywhere', () => {
    const pausing = (state: RunState): Fact[] =>
      state.status === 'running'
        ? [{ type: 'pause', reason: 'p' }]
        : state.status === 'paused'
          ? [{ type: 'resume', forgiven: {} }]
          : [];
    const { ends } = explore(
      started({ iterations: 1, rows: 2, evaluationPrompts: 2 }),
      rising,
      pausing,
    );
    expect([...ends.values()].map((state) => state.status)).toEqual(['succeeded']);
  });

  it('never changes the outcome when facts arrive while the run is paused', () => {
    let state = started();
    const facts = possible(state, rising);
    state = transition(state, { type: 'pause', reason: 'p', at: 2 });
    for (const fact of facts) state = transition(state, { ...fact, at: 3 });
    expect(stageOf(state, 'encode').status).toBe('running');
    expect(commandsBetween(state, state)).toEqual([]);
    state = transition(state, { type: 'resume', forgiven: {}, at: 4 });
    expect(stageOf(state, 'encode').status).toBe('done');
  });

  it('ends cancelled from every state, for good', () => {
    const cancelling = (state: RunState): Fact[] =>
      state.status === 'running' || state.status === 'paused'
        ? [{ type: 'cancel', reason: 'c' }]
        : [];
    const { ends } = explore(started({ iterations: 1 }), rising, cancelling);
    const statuses = new Set([...ends.values()].map((state) => state.status));
    expect([...statuses].sort()).toEqual(['cancelled', 'succeeded']);
    for (const end of ends.values()) {
      const resumed = transition(end, { type: 'resume', forgiven: {}, at: 99 });
      if (end.status === 'cancelled') expect(resumed).toBe(end);
      // Of a run that has succeeded, what it has left is looked at again.
      else expect(commandsBetween(end, resumed)).toEqual([{ type: 'report' }]);
    }
  });

  it('leads to the same end when a shard is lost and the rest suffices', () => {
    const losing = (state: RunState): Fact[] => {
      const lost = workOf(state).jobs.get('sample-base')?.includes(1)
        ? [
            {
              type: 'job-dead' as const,
              stage: 'sample-base',
              shard: 1,
              reason: 'crashed',
              attempts: 3,
            },
          ]
        : [];
      return lost;
    };
    const { ends } = explore(started({ iterations: 1, maxMissing: 0.5 }), rising, losing);
    expect(new Set([...ends.values()].map((state) => state.status))).toEqual(
      new Set(['succeeded']),
    );
    // Lost for good, or done after all.
    expect(ends.size).toBe(2);
  });

  it('fails in every order when more is lost than allowed', () => {
    const losing = (state: RunState): Fact[] =>
      state.status === 'running' && !stageOf(state, 'encode').dead.length
        ? [{ type: 'job-dead', stage: 'encode', shard: 1, reason: 'crashed', attempts: 3 }]
        : [];
    const reached = explore(started({ iterations: 1 }), rising, losing);
    expect(new Set([...reached.ends.values()].map((state) => state.status))).toEqual(
      new Set(['failed', 'succeeded']),
    );
    for (const end of reached.ends.values())
      if (end.status === 'failed') expect(end.reason).toContain('encode lost 2 of 4 items');
  });
});

/** Works everything off in the order asked for, up to where `until` holds. */
function run(
  state: RunState,
  means: Record<string, number>,
  until: (state: RunState) => boolean = () => false,
): RunState {
  let now = state;
  for (let i = 0; i < 1_000 && !until(now); i++) {
    const [fact] = possible(now, means);
    if (!fact) return now;
    now = transition(now, { ...fact, at: now.updatedAt + 1_000 });
  }
  return now;
}

describe('a run', () => {
  it('evaluates a model beside the sampling of the next iteration', () => {
    const state = run(started(), rising, (s) => workOf(s).jobs.has('sample-spin1'));
    expect([...workOf(state).jobs.keys()]).toEqual(['sample-spin1', 'eval-sample-spin1']);
  });

  it('scores a shard as soon as it is drawn', () => {
    let state = run(started({ evaluationPrompts: 4 }), rising, (s) =>
      workOf(s).jobs.has('eval-sample-base'),
    );
    state = transition(state, {
      type: 'jobs-done',
      stage: 'eval-sample-base',
      jobs: [{ shard: 1, rejected: [], truncated: 0 }],
      at: 50,
    });
    expect(workOf(state).jobs.get('eval-score-base')).toEqual([1]);
  });

  it('trains without waiting for the evaluation unless it may stop or shares the device', () => {
    const trainingBeforeEvaluation = (overrides: Partial<RunPlan>): boolean => {
      let state = started(overrides);
      for (let i = 0; i < 200; i++) {
        const fact = possible(state, rising).find(
          (f) => !('stage' in f && f.stage.startsWith('eval')),
        );
        if (!fact) break;
        state = transition(state, { ...fact, at: state.updatedAt + 1 });
      }
      return stageOf(state, 'train-spin2').status === 'done';
    };
    expect(trainingBeforeEvaluation({})).toBe(true);
    expect(trainingBeforeEvaluation({ stop: { metric: 'pick', patience: 1 } })).toBe(false);
    expect(trainingBeforeEvaluation({ sharedDevice: true })).toBe(false);
  });

  it('stops when the held-out score no longer improves, and keeps the best model', () => {
    const end = run(started({ iterations: 4, stop: { metric: 'pick', patience: 1 } }), {
      base: 1,
      spin1: 3,
      spin2: 2,
    });
    expect(end.status).toBe('succeeded');
    expect(end.bestModel).toBe('spin1');
    expect(stageOf(end, 'train-spin3').status).toBe('skipped');
    expect(end.warnings).toContainEqual(expect.stringContaining('stopped after iteration 2'));
  });

  it('waits for `patience` iterations in a row', () => {
    const end = run(started({ iterations: 4, stop: { metric: 'pick', patience: 2 } }), {
      base: 1,
      spin1: 3,
      spin2: 2,
      spin3: 4,
      spin4: 5,
    });
    expect(end.bestModel).toBe('spin4');
    expect(stageOf(end, 'train-spin4').status).toBe('done');
  });

  it('fails with the step when the loss is not a number, and stops training', () => {
    const state = run(started(), rising, (s) => workOf(s).training?.kind === 'spin');
    const end = transition(state, {
      type: 'train-step',
      model: 'spin1',
      metrics: metrics(1, { loss: Number.NaN }),
      at: 99,
    });
    expect(end.status).toBe('failed');
    expect(end.reason).toBe(
      'training of spin1 diverged at step 1: the loss is NaN; the last good checkpoint is kept',
    );
    expect(commandsBetween(state, end)).toContainEqual({ type: 'stop-training', model: spin(1) });
  });

  it('gives what failed another chance when it is resumed', () => {
    let state = started();
    state = transition(state, {
      type: 'job-dead',
      stage: 'encode',
      shard: 0,
      reason: 'crashed',
      attempts: 3,
      at: 2,
    });
    expect(state.status).toBe('failed');
    state = transition(state, { type: 'resume', forgiven: { 'r1/encode/0000': 1 }, at: 3 });
    expect(state.status).toBe('running');
    expect(workOf(state).jobs.get('encode')).toEqual([0, 1]);
    expect(run(state, rising).status).toBe('succeeded');
  });

  it('is not paused or told of a loss by a dead letter that a resume has forgiven, but by a new one', () => {
    const key = 'r1/encode/0000';
    const stored = (count: number) => ({ key, count, at: 1e12 + count });
    const pause = (count: number, at: number) =>
      ({ type: 'pause', reason: 'the disk is full', letter: stored(count), at }) as const;
    const dead = (count: number, at: number) =>
      ({
        type: 'job-dead',
        stage: 'encode',
        shard: 0,
        reason: 'crashed',
        attempts: 3,
        letter: stored(count),
        at,
      }) as const;
    // By its time, and as older versions did: by how many there were.
    for (const forgiven of [1e12 + 1, 1]) {
      let state = transition(started(), pause(1, 2));
      expect(state.status).toBe('paused');
      state = transition(state, { type: 'resume', forgiven: { [key]: forgiven }, at: 3 });
      expect(transition(state, pause(1, 4))).toBe(state);
      expect(transition(state, dead(1, 4))).toBe(state);
      expect(transition(state, pause(2, 5)).status).toBe('paused');
      expect(transition(state, dead(2, 5)).status).toBe('failed');
    }
  });

  it('leaves rejected rows out of sampling', () => {
    let state = started({ rows: 40, encodeShardSize: 40, maxMissing: 0.1 });
    state = transition(state, {
      type: 'jobs-done',
      stage: 'encode',
      jobs: [{ shard: 0, rejected: [2, 3], truncated: 0 }],
      at: 2,
    });
    expect(stageOf(state, 'encode').status).toBe('done');
    // Rows 2 and 3 are all of shard 1.
    expect(stageOf(state, 'sample-base').done).toEqual([1]);
    expect(state.warnings).toContainEqual(expect.stringContaining('2 of 40 items are missing'));
  });

  it('publishes every outstanding job again, in a new round, when the queue has lost them', () => {
    const state = started();
    const next = transition(state, { type: 'jobs-lost', at: 5 });
    expect(next.round).toBe(state.round + 1);
    expect(commandsBetween(state, next)).toContainEqual({
      type: 'publish',
      stage: 'encode',
      shards: [0, 1],
    });
  });

  it('does not count pauses as time at work', () => {
    let state = started();
    state = transition(state, { type: 'pause', reason: '', at: 1_001 });
    state = transition(state, { type: 'resume', forgiven: {}, at: 500_000 });
    state = transition(state, { type: 'pause', reason: '', at: 500_500 });
    expect(stageOf(state, 'encode').activeMs).toBe(1_500);
  });

  it('goes back to what is lost, holds back what needs it, and ends in the same state', () => {
    const first = run(
      started(),
      rising,
      (state) => stageOf(state, 'train-spin2').status === 'running',
    );
    const lost = transition(first, {
      type: 'inputs-lost',
      shards: [{ stage: 'encode', shard: 1 }],
      models: ['spin1'],
      texts: [],
      at: 1_000,
    });
    expect(workOf(lost)).toMatchObject({ training: null });
    expect([...workOf(lost).jobs]).toEqual([['encode', [1]]]);
    const commands = commandsBetween(first, lost);
    expect(commands[0]).toEqual({ type: 'purge' });
    expect(commands).toContainEqual({ type: 'publish', stage: 'encode', shards: [1] });
    expect(commands).toContainEqual({ type: 'stop-training', model: spin(2) });
    expect(lost.warnings).toContain('train-spin1: the weights were damaged and are made again');
    const [end, calm] = [run(lost, rising), run(first, rising)];
    expect(end.status).toBe('succeeded');
    expect([end.results, end.bestModel, end.truncated, end.rejected]).toEqual([
      calm.results,
      calm.bestModel,
      calm.truncated,
      calm.rejected,
    ]);
  });
});

describe('an opponent that is taken anew', () => {
  const parted = { trainSteps: [5, 2], refreshSteps: 2, asRead: { batchSize: 2, views: 1 } };

  it('makes a chain of drawings and trainings of an iteration, and one iteration of them', () => {
    const stages = stagesOf(plan({ ...parted, rows: 40 })).filter(
      ({ kind }) => kind === 'sample' || kind === 'train',
    );
    expect(stages.map(({ name, items, iteration }) => [name, items, iteration])).toEqual([
      ['sample-base', 4, 1],
      ['train-spin1at2', 2, 1],
      ['sample-spin1at2', 4, 1],
      ['train-spin1at4', 2, 1],
      ['sample-spin1at4', 2, 1],
      ['train-spin1', 1, 1],
      ['sample-spin1', 4, 2],
      ['train-spin2', 2, 2],
    ]);
    const after = (name: string) => stages.find((one) => one.name === name)?.after;
    expect(after('sample-spin1at2')).toEqual(['encode', 'train-spin1at2']);
    expect(after('train-spin1at4')).toEqual(['sample-spin1at2', 'train-spin1at2']);
    expect(after('sample-spin1')).toEqual(['encode', 'train-spin1']);
  });

  it('is one opponent where an iteration has no more steps', () => {
    const names = (refreshSteps?: number) =>
      stagesOf(plan({ ...(refreshSteps && { refreshSteps }) })).map(({ name }) => name);
    expect(names(2)).toEqual(names());
  });

  it.each([false, true])('runs to its end (shared device: %s)', (sharedDevice) => {
    const end = run(
      started({ ...parted, sharedDevice }),
      rising,
      (state) => state.status !== 'running',
    );
    expect(end.status).toBe('succeeded');
    expect(end.results.map(({ model }) => model)).toEqual(['base', 'spin1', 'spin2']);
    expect([...trainedSteps(end)]).toEqual([
      ['spin1', 5],
      ['spin2', 2],
    ]);
    for (const [name, items] of [
      ['train-spin1at4', 2],
      ['train-spin1', 1],
    ] as const)
      expect(stageOf(end, name).items).toBe(items);
  });

  it('has the lost weights of a part made again before what needs them goes on', () => {
    const state = run(
      started(parted),
      rising,
      (s) =>
        workOf(s).training?.kind === 'part' && modelName(workOf(s).training ?? base) === 'spin1at4',
    );
    const back = transition(state, {
      ...{ type: 'inputs-lost', at: 1, shards: [], models: ['spin1at2'], texts: [] },
    });
    expect(modelName(workOf(back).training ?? base)).toBe('spin1at2');
    expect(stageOf(back, 'train-spin1at4').status).toBe('waiting');
    const end = run(back, rising, (one) => one.status !== 'running');
    expect(end.status).toBe('succeeded');
  });
});
