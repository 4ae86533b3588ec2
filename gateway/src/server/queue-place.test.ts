import { expect, it } from 'vitest';
import { succeededRecord } from '../testing/records.js';
import { waitsFor } from './queue-place.js';

it('names the run that is at work, and counts those that come before', () => {
  const record = (runId: string, status: 'queued' | 'running' | 'succeeded', createdAt: number) => {
    const made = succeededRecord(runId, 1);
    return { ...made, state: { ...made.state, status, createdAt } };
  };
  const [done, running, first, own, later] = [
    record('done', 'succeeded', 1),
    record('running', 'running', 2),
    record('first', 'queued', 3),
    record('own', 'queued', 4),
    record('later', 'queued', 5),
  ];
  const all = [done, running, first, own, later];
  expect(waitsFor(own, all, 10)).toMatch(/^waits for running( \(about \d+ min\))? and 1 more$/);
  expect(waitsFor(first, all, 10)).toMatch(/^waits for running( \(about \d+ min\))?$/);
  expect(waitsFor(own, [own, later, first], 10)).toMatch(/^waits for first/);
  expect(waitsFor(first, [done, first, own], 10)).toBe('');
  expect(waitsFor(running, all, 10)).toBe('');
});
