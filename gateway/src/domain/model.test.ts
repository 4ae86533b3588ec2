import { expect, it } from 'vitest';
import { isBaseline, iterationOf, modelName, parseModel, type Model } from './model.js';

const models: [string, Model, number][] = [
  ['base', { kind: 'base' }, 0],
  ['sft', { kind: 'sft' }, 0],
  ['dpo', { kind: 'dpo' }, 0],
  ['spin1', { kind: 'spin', iteration: 1 }, 1],
  ['spin12', { kind: 'spin', iteration: 12 }, 12],
  ['spin3at50', { kind: 'part', iteration: 3, steps: 50 }, 3],
  ['ema2', { kind: 'ema', iteration: 2 }, 2],
];

it.each(models)('"%s" names a model, and back', (name, model, iteration) => {
  expect(modelName(model)).toBe(name);
  expect(parseModel(name)).toEqual(model);
  expect(iterationOf(model)).toBe(iteration);
  expect(isBaseline(model)).toBe(name === 'sft' || name === 'dpo');
});

it.each([
  '',
  'best',
  'spin',
  'spin0',
  'spin01',
  'spin1x',
  'ema',
  'base1',
  'sft2',
  'Spin1',
  'spin1at',
  'spin1at0',
])('"%s" names none', (name) => {
  expect(() => parseModel(name)).toThrow(
    `model: expected base, sft, dpo, spin<k>, ema<k> or spin<k>at<steps> with numbers from 1, got "${name}"`,
  );
});
