import { expect, it } from 'vitest';
import { prefetch } from './prefetch.js';

it('keeps the order, and no more than so many under way', async () => {
  let now = 0;
  let most = 0;
  const work = async (n: number): Promise<number> => {
    most = Math.max(most, ++now);
    // Later ones are done first.
    for (let i = 0; i < 10 - n; i++) await Promise.resolve();
    now -= 1;
    return n * n;
  };
  const results: number[] = [];
  for await (const result of prefetch([1, 2, 3, 4, 5], 3, work)) results.push(result);
  expect(results).toEqual([1, 4, 9, 16, 25]);
  expect(most).toBe(3);
});

it('throws what the work throws, in its place', async () => {
  const seen: number[] = [];
  const run = async (): Promise<void> => {
    for await (const n of prefetch([1, 2, 3], 3, async (each) =>
      each === 2 ? Promise.reject(new Error('two')) : each,
    ))
      seen.push(n);
  };
  await expect(run()).rejects.toThrow('two');
  expect(seen).toEqual([1]);
});
