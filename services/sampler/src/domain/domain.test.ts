import { describe, expect, it } from 'vitest';
import { batchesOf, unetBatchSize, vaeBatchSize } from './batches.js';
import { resolveSampling } from './sampling.js';

describe('batches', () => {
  it('cover everything once', () => {
    expect(batchesOf(5, 2)).toEqual([
      { from: 0, to: 2 },
      { from: 2, to: 4 },
      { from: 4, to: 5 },
    ]);
    expect(batchesOf(0, 2)).toEqual([]);
  });
  it('shrink as images grow and never vanish', () => {
    expect([64, 512, 4096].map((side) => vaeBatchSize(side, side))).toEqual([64, 1, 1]);
    expect([16, 64, 1024].map((side) => unetBatchSize(side, side))).toEqual([64, 4, 1]);
  });
});

describe('resolveSampling', () => {
  const empty = { scheduler: '', schedulerOverridesJson: '', steps: 0, guidanceScale: 0, eta: 0, height: 0, width: 0 };
  it('fills in what is empty', () => {
    expect(resolveSampling(undefined)).toMatchObject({ steps: 50, guidanceScale: 7.5, eta: 0 });
    expect(resolveSampling({ ...empty, steps: 20, guidanceScale: 1 })).toMatchObject({ steps: 20, guidanceScale: 1 });
  });
  it('refuses what makes no sense', () => {
    expect(() => resolveSampling({ ...empty, steps: 1001 })).toThrow('sampling.steps: expected at most 1000, got 1001');
    expect(() => resolveSampling({ ...empty, guidanceScale: Number.NaN })).not.toThrow();
    expect(() => resolveSampling({ ...empty, guidanceScale: -1 })).toThrow(/guidance_scale/);
    expect(() => resolveSampling({ ...empty, eta: 2 })).toThrow(/eta/);
  });
});
