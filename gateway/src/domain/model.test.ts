import { expect, it } from 'vitest';
import { isBaseline, iterationOf, modelName, parseModel, type Model } from './model.js';

const models: [string, Model, number][] = [
  ['base', { kind: 'base' }, 0],
  ['sft', { kind: 'sft' }, 0],
  ['dpo', { kind: 'dpo' }, 0],
  ['spin1', { kind: 'spin', iteration: 1 }, 1],
  ['spin12', { kind: 'spin', iteration: 12 }, 12],
  ['ema2', { kind: 'ema', iteration: 2 }, 2],
];

it.each(models)('"%s" names a model, and back', (name, model, iteration) => {
  expect(modelName(model)).toBe(name);
  expect(parseModel(name)).toEqual(model);
  expect(iterationOf(model)).toBe(iteration);
  expect(isBaseline(model)).toBe(name === 'sft' || name === 'dpo');
});

it.each(['', 'best', 'spin', 'spin0', 'spin01', 'spin1x', 'ema', 'base1', 'sft2', 'Spin1'])(
  '"%s" names none',
  (name) => {
    expect(() => parseModel(name)).toThrow(
      `model: expected base, sft, dpo, spin<k> or ema<k> with k from 1, got "${name}"`,
    );
  },
);
