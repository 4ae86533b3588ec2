import { describe, expect, it } from 'vitest';
import { changesOnResume, configDifferences, differenceText } from './changes.js';
import { parseRunConfig } from './load.js';

const config = (more: object = {}) =>
  parseRunConfig(
    { model: '/m', data: { path: '/d' }, train: { batch_size: 32, steps: 100 }, ...more },
    'config',
  );

describe('differences of configs', () => {
  it('are leaves, in words', () => {
    const differences = configDifferences(
      { a: { b: 1, c: [1] }, d: 2 },
      { a: { b: 1, c: [2] }, e: null },
    );
    expect(differences.map(differenceText)).toEqual([
      'a.c: [1] → [2]',
      'd: 2 → nothing',
      'e: nothing → null',
    ]);
    expect(configDifferences(config(), config())).toEqual([]);
  });

  it('that only steer the rest of a run are taken on when it resumes', () => {
    const after = config({
      iterations: 4,
      max_missing: 0.2,
      name: 'other',
      train: { batch_size: 32, steps: 100, checkpoint_steps: 10, gradient_accumulation: 8 },
    });
    expect(
      changesOnResume(config(), after)
        .map(({ key }) => key)
        .sort(),
    ).toEqual([
      'iterations',
      'max_missing',
      'name',
      'train.checkpoint_steps',
      'train.gradient_accumulation',
    ]);
  });

  it.each([
    [
      { train: { batch_size: 32, steps: 100, learning_rate: 1e-5 } },
      'train.learning_rate: expected 0.00002, with which the run began, got 0.00001',
    ],
    [{ iterations: 2 }, 'iterations: expected at least 3, with which the run began, got 2'],
    [{ seed: 1 }, 'seed: expected 0'],
    [{ data: { path: '/e' } }, 'data.path: expected "/d"'],
  ])('that change what a run makes are refused by name: %j', (more, message) => {
    expect(() => changesOnResume(config(), config(more))).toThrow(message);
  });
});
