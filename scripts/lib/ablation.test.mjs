import { resolve } from 'node:path';
import { describe, expect, it } from 'vitest';
import { ablationConfig, ablationTable, estimate, scoresOf, variants } from './ablation.mjs';

const config = {
  model: './m',
  data: { path: './train' },
  iterations: 3,
  train: { steps: 100, learning_rate: [4e-5, 2e-5] },
  objective: { beta: [1, 2] },
  baselines: { sft: {} },
  evaluation: { prompts: './p.txt', metrics: [{ name: 'pick', kind: 'clip', model: '/judge' }] },
};
const variant = (name) => variants.find((one) => one.name === name);

describe('the config of a variant', () => {
  it('is the first iteration alone, with paths that hold anywhere', () => {
    expect(ablationConfig(config, '/here', variant('plain'), 2)).toEqual({
      ...{ model: resolve('/here/m'), data: { path: resolve('/here/train') }, iterations: 1 },
      ...{ train: { steps: 100, learning_rate: 4e-5 }, objective: { beta: 1 }, baselines: {} },
      seed: 2,
      evaluation: { prompts: resolve('/here/p.txt'), metrics: config.evaluation.metrics },
    });
  });

  it('has its change beside what was there', () => {
    const { objective } = ablationConfig(config, '/here', variant('keep-if'), 0);
    expect(objective).toEqual({ beta: 1, keep_if: { metric: 'pick', margin: 0 } });
  });

  it('has a name of its own', () => {
    expect(new Set(variants.map(({ name }) => name)).size).toBe(variants.length);
  });
});

describe('the interval of a mean', () => {
  it('is over prompts and seeds', () => {
    // Seeds' means 1 and 3: variance 2, over 2; prompts' means 1, 2, 3: variance 1, over 3.
    const { mean, low, high } = estimate([
      [0, 1, 2],
      [2, 3, 4],
    ]);
    expect(mean).toBe(2);
    // 4/3 with (4/3)² / (1² / 1 + (1/3)² / 2) = 1.684 degrees of freedom: t is 5.2.
    expect((high - low) / 2 / Math.sqrt(4 / 3)).toBeGreaterThan(4.9);
    expect((high - low) / 2 / Math.sqrt(4 / 3)).toBeLessThan(5.3);
  });

  it('is over prompts alone with one seed', () => {
    const values = Array.from({ length: 101 }, (_, i) => i);
    const { mean, high } = estimate([values]);
    expect(mean).toBe(50);
    // The variance of 0 … 100 is 858.5; t of 100 degrees is 1.984.
    expect(high - mean).toBeCloseTo(1.984 * Math.sqrt(858.5 / 101), 2);
  });
});

it('shows gains over the base and over the plain run of the same seed', () => {
  const line = (model, prompt, pick) =>
    `${JSON.stringify({ model, prompt_index: prompt, seed: 1, scores: { pick } })}\n`;
  const run = (name, seed, more) => {
    const text = [0, 1].map((p) => line('base', p, p) + line('spin1', p, p + 1 + more)).join('');
    return {
      ...{ variant: name, seed, trainSeconds: 12 },
      ...{ base: scoresOf(text, 'base'), trained: scoresOf(text, 'spin1') },
    };
  };
  const table = ablationTable([run('plain', 0, 0), run('ipo', 0, 0.5)]).split('\n');
  expect(table.slice(2)).toEqual([
    '| the demo as it is | 1 | +1.000 (+1.000 to +1.000) | – | 12 s |',
    '| objective.loss: ipo | 1 | +1.500 (+1.500 to +1.500) | +0.500 (+0.500 to +0.500) | 12 s |',
  ]);
});
