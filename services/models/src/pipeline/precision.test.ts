import { expect, it } from 'vitest';
import { choosePrecision } from './precision.js';

const engine = (float32: number, bfloat16: number) => ({
  info: { version: '1', backend: 'cpu', isa: 'avx2', threads: 1, cpu: 'x', backends: ['cpu'] },
  measurePrecision: async () => ({ float32, bfloat16 }),
});

it('takes bfloat16 only where it is clearly faster, and says why', async () => {
  expect(await choosePrecision(engine(1, 0.5))).toEqual({
    precision: 'bfloat16',
    reason: 'a small training step on avx2 takes 1.000 s in float32 and 0.500 s in bfloat16',
  });
  expect((await choosePrecision(engine(1, 0.95))).precision).toBe('float32');
  expect((await choosePrecision(engine(1, 2))).precision).toBe('float32');
});
