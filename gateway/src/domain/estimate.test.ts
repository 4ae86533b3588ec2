import { expect, it } from 'vitest';
import { estimate, sftCost } from './estimate.js';

it('adds up the work of a run from the seconds of its pieces', () => {
  const predicted = estimate(
    {
      trainer: { peakBytes: 7, microBatchSeconds: 2, applySeconds: 0.5 },
      sampler: { peakBytes: 5, encodeSeconds: 0.25, stepSeconds: 0.1, decodeSeconds: 1 },
    },
    {
      rows: 8,
      drawn: 16,
      evaluated: 6,
      steps: 20,
      evaluationSteps: 10,
      trainings: [
        { steps: 3, microBatches: 4, cost: 1 },
        { steps: 2, microBatches: 4, cost: sftCost },
      ],
    },
  );
  expect(predicted).toMatchObject({ trainerBytes: 7, samplerBytes: 5, encodeSeconds: 2, sampleSeconds: 32, evaluateSeconds: 12 });
  // 3 × (4 × 2 + 0.5) + 2 × (4 × 3/8 × 2 + 0.5)
  expect(predicted.trainSeconds).toBeCloseTo(25.5 + 7);
  expect(predicted.totalSeconds).toBeCloseTo(2 + 32 + 12 + 32.5);
});
