import { describe, expect, it } from 'vitest';
import type { RunPlan } from './plan.js';
import { bestModel, stopsAfter } from './selection.js';
import { initialState, type RunState } from './state.js';

const plan: RunPlan = {
  ...{ runId: 'r', seed: 0, iterations: 3, sft: false, rows: 8, imagesPerPrompt: 1 },
  ...{ evaluationPrompts: 10, evaluationSeed: 0, metrics: ['pick', 'nice'], sharedDevice: true },
  ...{ encodeShardSize: 4, sampleShardSize: 4, trainSteps: 1, sftSteps: 0, maxMissing: 0 },
  stop: { metric: 'pick', patience: 1 },
};

/** What the tables say of each model, and what the prompts say that models are chosen by. */
function scored(own: RunPlan, means: Record<string, { mean: number; select?: number }>): RunState {
  const numbers = { median: 0, standardError: 0, winRate: 0, differenceLow: 0, differenceHigh: 0 };
  return {
    ...initialState(own, 0),
    results: Object.entries(means).map(([model, { mean, select }]) => ({
      model,
      metrics: ['pick', 'nice'].map((metric) => ({
        ...{ metric, ...numbers, mean: metric === 'pick' ? mean : -mean, n: 8 },
        ...(select !== undefined && {
          select: { mean: metric === 'pick' ? select : -select, n: 2 },
        }),
      })),
    })),
  };
}

describe('choosing', () => {
  const means = {
    base: { mean: 1, select: 1 },
    spin1: { mean: 2, select: 3 },
    spin2: { mean: 9, select: 2 },
  };
  const apart = { ...plan, select: { prompts: 2, metric: 'pick' } };

  it('goes by its own prompts, whatever the reported ones say', () => {
    expect(bestModel(scored(apart, means))).toBe('spin1');
    expect(bestModel(scored(plan, means))).toBe('spin2');
    expect(stopsAfter(scored(apart, means), { kind: 'spin', iteration: 2 })).toBe(true);
    expect(stopsAfter(scored(plan, means), { kind: 'spin', iteration: 2 })).toBe(false);
  });

  it('goes by the metric that was asked for', () => {
    const nice = { ...plan, select: { prompts: 2, metric: 'nice' } };
    expect(bestModel(scored(nice, means))).toBe('base');
  });

  it('does not take the reported mean for one that was lost', () => {
    const lost = { ...means, spin3: { mean: 99 } };
    expect(bestModel(scored(apart, lost))).toBe('spin1');
  });
});
