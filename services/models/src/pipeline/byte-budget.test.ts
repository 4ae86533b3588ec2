import { expect, it } from 'vitest';
import { ByteBudget } from './byte-budget.js';

const { signal } = new AbortController();

/** Work that ends when it is told. */
function task(budget: ByteBudget, bytes: number, name: string, log: string[], stop = signal) {
  let end = (): void => undefined;
  const ended = new Promise<void>((resolve) => {
    end = resolve;
  });
  const done = budget.use(
    bytes,
    () => {
      log.push(name);
      return ended;
    },
    stop,
  );
  return { end, done };
}

const settled = async (): Promise<void> => {
  for (let i = 0; i < 10; i++) await Promise.resolve();
};

it('begins what there is room for, in the order of asking', async () => {
  const budget = new ByteBudget(100);
  const log: string[] = [];
  const [a, b, c, d] = [60, 40, 50, 10].map((bytes, i) => task(budget, bytes, 'abcd'[i]!, log));
  await settled();
  expect(log).toEqual(['a', 'b']);
  b?.end();
  await settled();
  // The last one would fit, but comes after one that does not.
  expect(log).toEqual(['a', 'b']);
  a?.end();
  await settled();
  expect(log).toEqual(['a', 'b', 'c', 'd']);
  c?.end();
  d?.end();
  await Promise.all([a?.done, b?.done, c?.done, d?.done]);
});

it('lets what is larger than the budget be alone', async () => {
  const budget = new ByteBudget(100);
  const log: string[] = [];
  const small = task(budget, 1, 'small', log);
  const large = task(budget, 500, 'large', log);
  const next = task(budget, 1, 'next', log);
  await settled();
  expect(log).toEqual(['small']);
  small.end();
  await settled();
  expect(log).toEqual(['small', 'large']);
  large.end();
  await settled();
  expect(log).toEqual(['small', 'large', 'next']);
  next.end();
  await next.done;
});

it('gives room back when work fails, and lets others pass when one stops waiting', async () => {
  const budget = new ByteBudget(100);
  const log: string[] = [];
  await expect(budget.use(100, () => Promise.reject(new Error('x')), signal)).rejects.toThrow('x');
  const first = task(budget, 60, 'first', log);
  const stop = new AbortController();
  const stopped = task(budget, 60, 'stopped', log, stop.signal);
  const last = task(budget, 40, 'last', log);
  stop.abort(new Error('enough'));
  await expect(stopped.done).rejects.toThrow('enough');
  expect(log).toEqual(['first', 'last']);
  first.end();
  last.end();
  await Promise.all([first.done, last.done]);
});
