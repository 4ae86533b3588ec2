import { expect, it } from 'vitest';
import { compareNaturally } from './natural-order.js';

it('orders names by the numbers in them, and by code unit where those are equal', () => {
  const huge = 'b99999999999999999999';
  const ordered = ['', 'B1', 'a', 'a01', 'a1', 'a2', 'a2b', 'a10', 'a010b', 'b', huge];
  expect([...ordered].reverse().sort(compareNaturally)).toEqual(ordered);
});
