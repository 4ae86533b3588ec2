import { expect, it } from 'vitest';
import { estimate, pairCost, sftCost } from './estimate.js';

it('adds up the work of a run from the seconds of its pieces', () => {
  const predicted = estimate(
    {
      trainer: {
        peakBytes: 7,
        microBatchSeconds: 2,
        applySeconds: 0.5,
        loadSeconds: 10,
        exportSeconds: 4,
        checkpointSeconds: 30,
      },
      sampler: {
        peakBytes: 5,
        encodeSeconds: 0.25,
        callSeconds: 0.1,
        decodeSeconds: 1,
        unetLoadSeconds: 3,
        pipelineLoadSeconds: 7,
        drawCalls: 20,
        evaluateCalls: 10,
      },
    },
    {
      rows: 8,
      drawn: 16,
      evaluated: 6,
      models: 2,
      trainings: [
        { steps: 3, microBatches: 4, cost: 1, checkpoints: 2 },
        { steps: 2, microBatches: 4, cost: sftCost / pairCost(1), checkpoints: 0 },
      ],
    },
  );
  // 7 + 8 × 0.25; 2 × 3 + 16 × 20 × 0.1; 6 × (10 × 0.1 + 1)
  expect(predicted).toMatchObject({
    trainerBytes: 7,
    samplerBytes: 5,
    encodeSeconds: 9,
    sampleSeconds: 38,
    evaluateSeconds: 12,
  });
  // 10 + 3 × (4 × 2 + 0.5) + 2 × 30 + 4, and 10 + 2 × (4 × 3/8 × 2 + 0.5) + 4
  expect(predicted.trainSeconds).toBeCloseTo(99.5 + 21);
  expect(predicted.totalSeconds).toBeCloseTo(9 + 38 + 12 + 120.5);
});
