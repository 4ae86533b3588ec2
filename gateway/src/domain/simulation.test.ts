import { expect, it } from 'vitest';
import { Simulation } from '../testing/simulation.js';
import type { RunPlan } from './plan.js';

const plan: RunPlan = {
  ...{ runId: 'r', seed: 0, iterations: 2, sft: false, rows: 2, imagesPerPrompt: 1 },
  ...{ evaluationPrompts: 2, evaluationSeed: 0, metrics: ['pick'], stop: null },
  ...{ encodeShardSize: 1, sampleShardSize: 1, trainSteps: 1, sftSteps: 0, maxMissing: 0 },
  sharedDevice: true,
};

/** Training begins when four of its five shards are drawn. */
const early: RunPlan = {
  ...{ ...plan, sharedDevice: false, rows: 5, encodeShardSize: 5, trainSteps: 5 },
  asRead: { batchSize: 1, views: 1 },
};

/** Each of its three steps is judged. */
const judged: RunPlan = {
  ...{ ...plan, select: { prompts: 1, metric: 'pick' }, trainSteps: 3 },
  judging: { spin: { every: 1, prompts: 1, keep: 'best' } },
};

/** Sixteen seconds' worth; SPINDLE_TEST_SEEDS asks for more. */
const seeds = Number(process.env['SPINDLE_TEST_SEEDS'] ?? 10_000);

it('ends every run in the values of a calm one, whatever dies or is damaged on the way', () => {
  const keepIf = { metric: 'pick', margin: 0 };
  const plans = [plan, { ...plan, keepIf }, early, judged];
  const calmOnes = plans.map((one) => new Simulation(one, 0, 0).run());
  for (const calm of calmOnes) {
    expect(calm.state.status).toBe('succeeded');
    expect([calm.faults, calm.resumes]).toEqual([0, 0]);
  }
  let faults = 0;
  for (let seed = 1; seed <= seeds; seed++) {
    const which = { 0: 1, 1: 2, 2: 3, 5: 1 }[seed % 10] ?? 0;
    const [own, calm] = [plans[which] ?? plan, calmOnes[which]];
    const changes = { sft: seed % 3 === 0, ...(which !== 2 && { sharedDevice: seed % 4 < 2 }) };
    const { state, steps, values, ...counts } = new Simulation(
      { ...own, ...changes },
      seed,
      seed % 13,
    ).run();
    faults += counts.faults;
    const end = { seed, status: state.status, reason: state.reason, ended: steps !== null };
    expect(end).toEqual({ seed, status: 'succeeded', reason: '', ended: true });
    for (const [model, calmly] of Object.entries(calm?.state.training ?? {})) {
      const { unet, kept } = state.training[model] ?? {};
      expect([seed, model, unet, kept]).toEqual([seed, model, calmly.unet, calmly.kept]);
    }
    for (const [key, value] of Object.entries(calm?.values ?? {})) {
      // Damage after the last reader stays, which the report's own check keeps from the weights.
      if (values[key] !== undefined) expect([seed, key, values[key]]).toEqual([seed, key, value]);
    }
  }
  expect(faults).toBeGreaterThan(4 * seeds);
}, 900_000);
