import { create } from '@bufbuild/protobuf';
import { expect, test } from 'vitest';
import {
  Objective,
  ObjectiveSchema,
  OnDivergenceSchema,
  TrainStepSchema,
} from '../gen/spindle/v1/trainer_service_pb.js';
import { enumName, enumValue } from './enums.js';
import { numbersOf, stepNumbers } from './train-step.js';

test("a step's numbers are named as in files of before, in their order", () => {
  expect(stepNumbers.map(({ name }) => name)).toEqual([
    'step',
    'loss',
    'error_real',
    'error_generated',
    'opponent_error_real',
    'opponent_error_generated',
    'implicit_accuracy',
    'loser_scale',
    'grad_norm',
    'learning_rate',
    'beta',
    'seconds',
  ]);
});

test('what is stored of a step is its numbers alone', () => {
  const step = create(TrainStepSchema, { step: 3, loss: 0.5, phases: [{ name: 'forward' }] });
  const stored = numbersOf(step);
  expect(Object.keys(stored)).toEqual(stepNumbers.map(({ key }) => key));
  expect(stored).toMatchObject({ step: 3, loss: 0.5, gradNorm: 0 });
});

test('enums have the names that people write', () => {
  expect(enumName(ObjectiveSchema, Objective.SPIN_LOGISTIC)).toBe('spin_logistic');
  expect(enumValue(ObjectiveSchema, 'sft')).toBe(Objective.SFT);
  expect(() => enumValue(OnDivergenceSchema, 'explode')).toThrow(
    'OnDivergence: expected one of warn, stop, rollback, got "explode"',
  );
});
