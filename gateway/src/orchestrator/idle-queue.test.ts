import type { Bus } from '@spindle/mesh';
import { expect, it } from 'vitest';
import { IdleQueue } from './idle-queue.js';

const enough = 24;

function queueBeside(workers: Record<string, string>): IdleQueue {
  const kv = {
    keys: () => Promise.resolve(Object.keys(workers)),
    get: (key: string) => Promise.resolve({ value: workers[key] ?? '', revision: 1 }),
  };
  return new IdleQueue({ kv: () => kv } as unknown as Pick<Bus, 'kv'>);
}

async function stuckAfter(
  workers: Record<string, string>,
  jobsAt: (comparison: number) => string[] = () => ['r1/sample-base/0000'],
): Promise<number | null> {
  const queue = queueBeside(workers);
  for (let comparison = 1; comparison <= 3 * enough; comparison++)
    if (await queue.isStuck(new Map([['sample', jobsAt(comparison)]]))) return comparison;
  return null;
}

it('finds a queue stuck when jobs wait beside idle workers and nothing moves', async () => {
  const idle = '{"worker":"w1","job":""}';
  const busy = '{"worker":"w2","job":"r1/sample-base/0000"}';
  expect(await stuckAfter({ 'sampler.w1': idle })).toBe(enough + 1);
  expect(await stuckAfter({ 'sampler.w1': idle, 'scorer.w3': busy })).toBe(enough + 1);
  expect(await stuckAfter({ 'sampler.w1': idle, 'sampler.w2': busy })).toBeNull();
  expect(await stuckAfter({ 'sampler.w1': '7' })).toBeNull();
  expect(await stuckAfter({ 'scorer.w3': idle })).toBeNull();
  expect(await stuckAfter({})).toBeNull();
  const moving = (comparison: number): string[] => [`r1/sample-base/${comparison >> 3}`];
  expect(await stuckAfter({ 'sampler.w1': idle }, moving)).toBeNull();
});
